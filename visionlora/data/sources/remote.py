"""Shards behind a URL: fetched once through fsspec, seen to be whole, and kept on the disk in the layout that they have there."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from visionlora.common.errors import UserError
from visionlora.common.files import remove_parts, replace_file
from visionlora.common.processes import process_rank
from visionlora.common.reading import read_json, sealed_json
from visionlora.common.text import counted
from visionlora.data.sources.server import AT_ONCE, ListedOtherwiseError, Server

LISTING = "listing.json"
"""In the folder that keeps the shards of one root: where each comes from, how large it is and, where the server says it, its sha256."""
CACHE = "VISIONLORA_CACHE"
"""Environment variable: the folder in which shards are kept."""
GB = 10**9


def kept_folder(root: str) -> Path:
    """The folder that keeps the shards of the URL ``root``."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "visionlora")
    return Path(os.environ.get(CACHE) or usual).expanduser() / "shards" / hashlib.sha256(root.encode()).hexdigest()[:24]


def fetched(root: str, download: bool, most_gb: float) -> Path:
    """The folder with the shards of ``root``, and ``classes.txt``, as ``data=webdataset`` reads a folder; what is missing is fetched.

    What the server has is asked for once. From then on the shards that are kept are the data, so that a run which goes on sees the same
    images whatever has become of the server. A shard appears whole or not at all: of the size that the server said, and with the sha256
    that ``shards.json`` says. Of several processes one fetches, and the others wait.

    Args:
        root: ``http://…/shards/``, with ``shards.json`` or a list of links in it; one ``.tar``, or several by ``{00..09}``, ``{a,b}`` or
            ``*``. Any protocol that fsspec knows will do.
        download: whether anything may be fetched.
        most_gb: that the shards of all roots may take.

    Raises:
        UserError: the server cannot be reached, has no shards or sends damaged ones, or they would take more room.
        OSError: the disk is full or cannot be written.
    """
    folder = kept_folder(root)
    if not _whole(folder) and not download:
        raise UserError(f"data.root={root}: its shards are not kept here, and nothing is fetched unless you name the place: root={root}.")
    if not _whole(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not _whole(folder):
                _fetch(root, folder, most_gb)
    elif not process_rank():
        since = time.strftime("%Y-%m-%d", time.localtime((folder / LISTING).stat().st_mtime))
        print(f"data.root={root}: as fetched on {since}; without the folder {folder} it would be fetched again.", file=sys.stderr)
    return folder


def _whole(folder: Path) -> bool:
    """Whether all that is listed is there."""
    if not (folder / LISTING).is_file():
        return False
    listing = read_json(folder / LISTING)  # one of an earlier version does not say whether all of it was here
    return listing.get("complete", True) and all(_is_kept(folder / name, shard) for name, shard in listing["shards"].items())


def _is_kept(file: Path, shard: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == shard["size"]


def _fetch(root: str, folder: Path, most_gb: float) -> None:
    """List what there is, unless an earlier process has, and fetch what is missing.

    A list of which all was here once stays, for it is what was trained on. Before, one that turns out to be wrong is made anew next time.
    """
    server = Server(root)
    remove_parts(folder)
    if not (folder / LISTING).is_file():
        shards = server.shards(folder)
        _see_room(root, folder, shards, most_gb)
        _remove_others(folder, shards)
        replace_file(folder / LISTING, sealed_json({"root": root, "shards": shards, "complete": False}))
    listing = read_json(folder / LISTING)
    shards = listing["shards"]
    missing = {name: shard for name, shard in shards.items() if not _is_kept(folder / name, shard)}
    size = sum(shard["size"] for shard in missing.values())
    print(f"data.root={root}: fetching {counted(len(missing), 'shard')}, {size / GB:.2f} GB, into {folder}.", file=sys.stderr)
    for place in {(folder / name).parent for name in missing}:
        place.mkdir(exist_ok=True)
        remove_parts(place)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pending = [pool.submit(server.fetch, shard, folder / name) for name, shard in missing.items()]
        try:
            for done in pending:
                done.result()
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, ListedOtherwiseError) and not listing.get("complete", True):
                (folder / LISTING).unlink()
            raise
    if not listing.get("complete", True):
        replace_file(folder / LISTING, sealed_json({"root": root, "shards": shards, "complete": True}))


def _remove_others(folder: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove shards of an earlier list, but those that are in the new one by their hash."""
    for file in folder.rglob("*.tar"):
        wanted = shards.get(file.relative_to(folder).as_posix(), {}).get("sha256")
        with file.open("rb") as stream:
            same = wanted is not None and hashlib.file_digest(stream, "sha256").hexdigest() == wanted
        if not same:
            file.unlink()


def _see_room(root: str, folder: Path, shards: Mapping[str, Any], most_gb: float) -> None:
    wanted = sum(shard["size"] for shard in shards.values()) / GB
    others = sum(file.stat().st_size for file in folder.parent.rglob("*.tar") if folder not in file.parents) / GB
    if wanted + others > most_gb:
        raise UserError(
            f"data.root={root} has {wanted:,.2f} GB of shards, and with {others:,.2f} GB of others in {folder.parent} they are more than"
            f" data.kept_gb={most_gb:g}; raise it, or remove what is no longer wanted there."
        )
    if wanted * GB > shutil.disk_usage(folder).free:
        raise UserError(f"data.root={root} has {wanted:,.2f} GB of shards, for which {folder} has no room; {CACHE}=DIR is another.")

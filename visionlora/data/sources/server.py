"""What a server has of shards: asked for through fsspec, with every error as a sentence."""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from visionlora.common.errors import UserError
from visionlora.common.files import put_in_place, replace_file, writing_beside
from visionlora.common.reading import read_json
from visionlora.common.text import in_a_line
from visionlora.data.sources.folders import PARTS
from visionlora.data.stores import members

NAMES = "classes.txt"
"""Beside the shards: names of classes, a line each, where labels are their numbers."""
INDEX = "shards.json"
"""What ``visionlora.pack`` writes beside shards: their names, with the sha256 of each."""
AT_ONCE = 4
"""Shards that are asked for at a time."""
TRIES = 3
"""How often a question is put before its error is told."""
PATIENCE = 60.0
"""Seconds in which a server has to send something."""
PAGE = (b"<!doctype", b"<html", b"<?xml")
"""How a page begins that a server sends in the place of a small file: of a login, or of an error."""
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE)
T = TypeVar("T")


class ListedOtherwiseError(UserError):
    """A shard is not what the server has said of it."""


class Server:
    """What is at the URL ``root``; every error of the library or of the server is a sentence that begins with it."""

    def __init__(self, root: str) -> None:
        import fsspec
        from aiohttp import ClientTimeout

        self.root = root
        options: dict[str, Any] = {}
        if root.startswith("http"):  # its own limit is five minutes a file
            options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)}
        with self._told():
            self.files, _ = fsspec.core.url_to_fs(root, skip_instance_cache=True, **options)

    def shards(self, folder: Path) -> dict[str, dict[str, Any]]:
        """By name below ``folder``, the URL, size and hash of each shard; ``classes.txt`` is fetched."""
        hashes: dict[str, str] = {}
        if self.root.endswith(".tar"):
            urls = self._named()
            above = self.root[: re.split(r"[{*\[]", self.root)[0].rindex("/") + 1]
        else:
            above = self.root.rstrip("/") + "/"
            if self._small(above + INDEX, folder / INDEX):
                hashes = self._hashes(folder / INDEX)
            urls = [above + name for name in hashes] or self._listed(above)
        found = {local_name(url.removeprefix(above)): url for url in urls}
        if not found:
            raise UserError(f"data.root={self.root}: there are no shards (*.tar) there.")
        for place in (above, above.rstrip("/").rpartition("/")[0] + "/"):
            if place.count("/") > 2 and self._small(place + NAMES, folder / NAMES):
                break
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sizes = list(pool.map(self._size, found.values()))
        return {
            name: {"url": url, "size": size, "sha256": hashes.get(url.removeprefix(above))}
            for (name, url), size in zip(found.items(), sizes, strict=True)
        }

    def fetch(self, shard: Mapping[str, Any], file: Path) -> None:
        """Put a shard in its place.

        Raises:
            UserError: it cannot be had, or is not what was listed.
        """
        with writing_beside(file) as (part, _):
            try:
                self._ask(partial(self.files.get_file, shard["url"], str(part)))
            except FileNotFoundError:
                raise ListedOtherwiseError(f"data.root={self.root}: there is no {shard['url']} any more.") from None
            size, called = part.stat().st_size, f"data.root={self.root}: {shard['url']}"
            if size != shard["size"]:
                how = "was cut short" if size < shard["size"] else "is not what was said of it"
                raise ListedOtherwiseError(f"{called} {how}: {size:,} of {shard['size']:,} bytes came.")
            with part.open("rb") as stream:
                if shard["sha256"] and hashlib.file_digest(stream, "sha256").hexdigest() != shard["sha256"]:
                    raise ListedOtherwiseError(f"{called} is not what {INDEX} says (sha256); was it written anew?")
            try:
                members(part, called)
            except UserError as error:
                raise ListedOtherwiseError(str(error)) from None
        put_in_place(part, file)

    def _named(self) -> list[str]:
        """The URLs of a pattern."""
        urls = list(expanded(self.root))
        if "*" not in self.root and "[" not in self.root:
            return urls
        return [self.files.unstrip_protocol(name) for url in urls for name in sorted(self._ask(partial(self.files.glob, url)))]

    def _listed(self, above: str) -> list[str]:
        """The shards in a folder and in those of its parts."""
        found = []
        for place in (above, *(f"{above}{part}/" for part in PARTS)):
            try:
                names = self._ask(partial(self.files.ls, place, detail=False))
            except FileNotFoundError:
                continue
            found += [place + PurePosixPath(name).name for name in sorted(names) if name.endswith(".tar")]
        return found

    def _size(self, url: str) -> int:
        try:
            size = self._ask(partial(self.files.info, url))["size"]
        except FileNotFoundError:
            raise UserError(f"data.root={self.root}: there is no {url}.") from None
        if size is None:
            raise UserError(f"data.root={self.root}: the server does not say how large {url} is, and a cut would go unseen; copy it here.")
        return int(size)

    def _small(self, url: str, file: Path) -> bool:
        """Fetch a small file of text, if there is one; none of an earlier time stays.

        Raises:
            UserError: what comes is none.
        """
        try:
            content = self._ask(partial(self.files.cat_file, url))
        except FileNotFoundError:
            file.unlink(missing_ok=True)
            return False
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"data.root={self.root}: {url} is damaged: it is not text.") from None
        if content.lstrip()[:16].lower().startswith(PAGE):
            raise UserError(f"data.root={self.root}: in the place of {url} comes a web page, as of a login or of an error.")
        replace_file(file, content)
        return True

    def _hashes(self, file: Path) -> dict[str, str]:
        """The hashes that ``shards.json`` has, by the names of the shards.

        Raises:
            UserError: it is damaged.
        """
        try:
            found = read_json(file).get("shards", {})
            return {str(name): str(digest) for name, digest in found.items()}
        except (UserError, AttributeError):
            raise UserError(f"data.root={self.root}: its {INDEX} is damaged; write it again with visionlora.pack.") from None

    def _ask(self, what: Callable[[], T]) -> T:
        """What the server answers, after several tries."""
        for left in reversed(range(TRIES)):
            try:
                with self._told():
                    return what()
            except UserError:
                if not left:
                    raise
                time.sleep(0.5 * (TRIES - left))
        raise AssertionError

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # every protocol's library has errors of its own
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            raise UserError(f"data.root={self.root} cannot be read: {in_a_line(error).rstrip('.')}.") from None


def local_name(name: str) -> str:
    """A shard's place below the folder that keeps it: in that of its part, if it has one; never outside."""
    parts = PurePosixPath(name).parts
    if not name.endswith(".tar") or any(part in ("..", ".", "/") or "\\" in part or part.startswith(".") for part in parts):
        raise UserError(f"the server has a shard of the name {name!r}, which is none of a .tar below the root.")
    return f"{parts[0]}/{'-'.join(parts[1:])}" if parts[0] in PARTS and len(parts) > 1 else "-".join(parts)


def expanded(pattern: str) -> Iterator[str]:
    """The texts that ``{00..09}`` and ``{a,b}`` in a pattern stand for, as a shell has them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    words = found[1].split(",")
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        width = max(len(ends[1]), len(ends[2])) if "0" in (ends[1][0], ends[2][0]) else 0
        words = [f"{number:0{width}}" for number in range(first, last + 1)]
    for word in words:
        yield from expanded(pattern[: found.start()] + word + pattern[found.end() :])

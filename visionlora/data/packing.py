"""``visionlora.pack``: images and labels as shards, which ``data=webdataset`` reads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from rich.progress import Progress

from visionlora.common.console import console
from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.files import is_part, put_in_place, remove_parts, replace_file, writing_beside
from visionlora.common.reading import read_json, sealed_json
from visionlora.data.images import Images
from visionlora.data.opening import extensions
from visionlora.data.pack_config import PackConfig
from visionlora.data.sources.folders import PARTS
from visionlora.data.sources.load import load_source
from visionlora.tasks.registry import kind_of, make_task
from visionlora.tasks.task import Task

MOST_BYTES = 2**28
"""Of a shard, after which another one is begun."""
LIST = "shards.json"


def pack(config: PackConfig) -> int:
    """Write ``OUTPUT/PART/000000.tar`` and so on, and ``shards.json`` with the sha256 of each; the number of images.

    Every shard appears whole or not at all. One that is there and is what it would be is not written again, so that a packing which was
    stopped goes on. One that was stopped before its first shard leaves nothing.

    Raises:
        UserError: the images are not there, or the folder has shards of others.
        OSError: the disk is full or cannot be written.
        KeyboardInterrupt: with a word on how to go on.
    """
    source = load_source(config.data, kind_of(config.task))
    task = make_task(config.task, source.classes)
    output = Path(config.output)
    plan = [(part, number, rows) for part, images in source.parts.items() for number, rows in enumerate(_portions(images, config.images))]
    whole = _fingerprint(source.parts, config.images)
    known = _known(output, whole)
    made = not output.exists()
    try:
        for part in source.parts:
            (output / part).mkdir(parents=True, exist_ok=True)
        remove_parts(output, *(output / part for part in source.parts))
        if not known:  # before the first shard: one without a list is somebody else's
            _list(output, whole, known)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("packing", total=len(plan))
            for done, (part, number, rows) in enumerate(plan):
                progress.update(bar, completed=done)
                name = f"{part}/{number:06}.tar"
                if known.get(name) != _hash(output / name):
                    known[name] = _write(output / name, source.parts[part], rows, task)
                    _list(output, whole, known)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; {len(known)} of {len(plan)} shards are written, and the same command goes on") from None
    finally:
        if not known:
            _remove_empty(output, [*source.parts], made)
    count = sum(map(len, source.parts.values()))
    parts = ", ".join(f"{len(images):,} of {part}" for part, images in source.parts.items())
    console.print(
        f"{output}: {len(plan):,} shards with {count:,} images ({parts}); data=webdataset data.root={output} reads them.", highlight=False
    )
    return count


def _portions(images: Images, most: int) -> Iterator[range]:
    """The images of each shard."""
    start, size = 0, 0
    for index in range(len(images)):
        more = 0 if images.in_memory else images.bytes_of(index)
        if index > start and (index - start == most or size + more > MOST_BYTES):
            yield range(start, index)
            start, size = index, 0
        size += more
    if start < len(images):
        yield range(start, len(images))


def _fingerprint(parts: dict[str, Images], most: int) -> str:
    digest = hashlib.sha256(str(most).encode())
    for part, images in parts.items():
        for index, (name, label) in enumerate(zip(images.names, images.labels, strict=True)):
            more = "".join(f"{key}={value}\0" for key, value in images.columns_of(index).items())
            digest.update(f"{part}\0{name}\0{label}\0{more}".encode())
    return digest.hexdigest()


def _known(output: Path, whole: str) -> dict[str, str]:
    """The hashes of the shards that an earlier packing of the same images has written."""
    if not (output / LIST).is_file():
        if output.exists() and any(not _of_ours(path) for path in output.rglob("*")):
            raise UserError(f"output={output} is not empty, and has no shards of an earlier packing; name another folder.")
        return {}
    found = read_json(output / LIST)
    if found.get("images") != whole:
        raise UserError(f"output={output} has shards of other images, labels or sizes; name another folder, or remove it.")
    return dict(found.get("shards", {}))


def _of_ours(path: Path) -> bool:
    """Whether a packing that was killed before it had written its list may have left it."""
    return path.name in PARTS if path.is_dir() else is_part(path)


def _list(output: Path, whole: str, known: dict[str, str]) -> None:
    replace_file(output / LIST, sealed_json({"images": whole, "shards": known}))


def _remove_empty(output: Path, parts: list[str], made: bool) -> None:
    """Remove what a packing has made that has written no shard."""
    with contextlib.suppress(OSError):
        for part in parts:
            (output / part).rmdir()
        (output / LIST).unlink(missing_ok=True)
        if made:
            output.rmdir()


def _write(file: Path, images: Images, rows: range, task: Task) -> str:
    """Write one shard, and return its hash."""
    with writing_beside(file) as (part, stream), tarfile.open(fileobj=stream, mode="w") as archive:
        for index in rows:
            ending, content = _content(images, index)
            cells = task.as_cells(images.labels[index]) | images.columns_of(index)
            for end, data in ((ending, content), ("json", json.dumps(cells).encode())):
                info = tarfile.TarInfo(f"{index:08}.{end}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    put_in_place(part, file)
    return _hash(file)


def _content(images: Images, index: int) -> tuple[str, bytes]:
    """The bytes of an image as they are, with the ending of its name, or of its format where its name has none; of one in memory, as PNG.

    Raises:
        UserError: they cannot be had.
    """
    if images.arrays is not None:
        stream = io.BytesIO()
        Image.fromarray(images.arrays[index]).save(stream, "PNG")
        return "png", stream.getvalue()
    name = images.names[index]
    try:
        content = images.paths[index].read_bytes() if images.store is None else images.store.read(name)
    except OSError as error:  # else it would be taken for one of the shard
        raise UserError(f"cannot read the image {images.paths[index]}: {disk_trouble(error) or error}") from None
    except UnreadableError as error:
        raise UserError(f"cannot pack the image {name}: {error.why}; data.exclude=FILE leaves it out.") from None
    ending = Path(name).suffix.lower()
    return (ending if ending in extensions() else _format_of(content)).removeprefix("."), content


def _format_of(content: bytes) -> str:
    """The ending of an image by its first bytes; ``.png`` where they are of none, which is told where it is read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            known = str(image.format)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ".png"
    return {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(known, f".{known.lower()}")


def _hash(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

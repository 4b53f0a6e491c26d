"""``visionlora.pack``: images and labels as shards, which ``data=webdataset`` reads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from rich.progress import Progress

from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.common.files import put_in_place, replace_file
from visionlora.common.reading import read_json, sealed_json
from visionlora.data.images import Images
from visionlora.data.pack_config import PackConfig
from visionlora.data.sources import load_source
from visionlora.tasks.registry import kind_of, make_task
from visionlora.tasks.task import Task

MOST_BYTES = 2**28
"""Of a shard, after which another one is begun."""
LIST = "shards.json"


def pack(config: PackConfig) -> int:
    """Write ``OUTPUT/PART/000000.tar`` and so on, and ``shards.json`` with the sha256 of each; the number of images.

    Every shard appears whole or not at all. One that is there and is what it would be is not written again, so that a packing which was
    stopped goes on.

    Raises:
        UserError: the images are not there, or the folder has shards of others.
    """
    source = load_source(config.data, kind_of(config.task))
    task = make_task(config.task, source.classes)
    output = Path(config.output)
    plan = [(part, number, rows) for part, images in source.parts.items() for number, rows in enumerate(_portions(images, config.images))]
    whole = _fingerprint(source.parts, config.images)
    known = _known(output, whole)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("packing", total=len(plan))
        for part, number, rows in plan:
            name = f"{part}/{number:06}.tar"
            if known.get(name) != _hash(output / name):
                known[name] = _write(output / name, source.parts[part], rows, task)
                replace_file(output / LIST, sealed_json({"images": whole, "shards": known}))
            progress.advance(bar)
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
        for name, label in zip(images.names, images.labels, strict=True):
            digest.update(f"{part}\0{name}\0{label}\0".encode())
    return digest.hexdigest()


def _known(output: Path, whole: str) -> dict[str, str]:
    """The hashes of the shards that an earlier packing of the same images has written."""
    if not output.exists():
        output.mkdir(parents=True)
    if not (output / LIST).is_file():
        if any(output.iterdir()):
            raise UserError(f"output={output} is not empty, and has no shards of an earlier packing; name another folder.")
        return {}
    found = read_json(output / LIST)
    if found.get("images") != whole:
        raise UserError(f"output={output} has shards of other images, labels or sizes; name another folder, or remove it.")
    return dict(found.get("shards", {}))


def _write(file: Path, images: Images, rows: range, task: Task) -> str:
    """Write one shard, and return its hash."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with tarfile.open(part, "w") as archive:
            for index in rows:
                ending, content = _content(images, index)
                for end, data in ((ending, content), ("json", json.dumps(task.as_cells(images.labels[index])).encode())):
                    info = tarfile.TarInfo(f"{index:08}.{end}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        found = _hash(part)
        put_in_place(part, file)
    finally:
        part.unlink(missing_ok=True)
    return found


def _content(images: Images, index: int) -> tuple[str, bytes]:
    """The bytes of an image as they are, with their ending; of one in memory, as PNG."""
    if images.arrays is not None:
        stream = io.BytesIO()
        Image.fromarray(images.arrays[index]).save(stream, "PNG")
        return "png", stream.getvalue()
    ending = Path(images.names[index]).suffix.lower().removeprefix(".")
    if images.store is not None:
        return ending, images.store.read(images.names[index])
    return ending, images.paths[index].read_bytes()


def _hash(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

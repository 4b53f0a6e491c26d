"""What is wrong with single files: unreadable, named as another format, small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from visionlora.common.errors import UnreadableError
from visionlora.data.findings import YES, Finding
from visionlora.data.images import Images

SAME = {"MPO": "JPEG", "DIB": "BMP", "JPEG2000": "JPEG2000"}
"""Formats that another one's ending is right for."""


def wrong_files(part: str, images: Images, words: list[str], smallest: int) -> list[Finding]:
    """Look at every image of a part.

    Args:
        part: its name.
        images: of it.
        words: their labels in words.
        smallest: pixels of the shorter side, below which an image is small.
    """

    def look(index: int) -> list[Finding]:
        name, label = images.names[index], words[index]
        try:
            image = images.open(index, 3)
        except UnreadableError as error:
            return [Finding(name, part, label, "unreadable", error.why, YES)]
        found = []
        if images.paths and (other := _other_format(images.paths[index])):
            found.append(Finding(name, part, label, "extension", f"it is named {images.paths[index].suffix} and is {other}"))
        if min(image.size) < smallest:
            found.append(Finding(name, part, label, "small", f"it has {image.width} × {image.height} pixels"))
        return found

    with ThreadPoolExecutor() as pool:
        return [finding for found in pool.map(look, range(len(images))) for finding in found]


def _other_format(path: Path) -> str:
    """The format of a file that is named as another, ``""`` where the name is right."""
    named = Image.registered_extensions().get(path.suffix.lower())
    with Image.open(path) as image:
        found = SAME.get(str(image.format), str(image.format))
    return "" if named is None or SAME.get(named, named) == found else found

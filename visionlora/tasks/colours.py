"""Colours of classes, and what is drawn over an image: for masks and boxes. Free of torch."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from visionlora.common.drawing import PALETTE
from visionlora.common.files import folder_inside, inside, replace_file

OPAQUE = 0.55
"""How much of an overlay is the class's colour."""
LONGEST = 1600
"""Pixels of the longer side of an overlay."""


def colour(number: int) -> tuple[int, int, int]:
    """The colour of class ``number``: those of all drawings first, then hues that are far from each other."""
    if number < len(PALETTE):
        text = PALETTE[number]
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    red, green, blue = colorsys.hsv_to_rgb((number * 0.618034) % 1.0, 0.55 + 0.4 * (number % 2), 0.75 + 0.2 * (number % 3 == 0))
    return round(255 * red), round(255 * green), round(255 * blue)


def colour_table(values: Sequence[int]) -> list[int]:
    """A palette of PIL's in which ``values[k]`` has the colour of class ``k``; all others are black."""
    table = np.zeros((256, 3), np.uint8)
    for number, value in enumerate(values):
        table[value] = colour(number)
    return [int(value) for value in table.ravel()]


def in_colours(mask: np.ndarray, classes: int) -> np.ndarray:
    """The colours ``(H, W, 3)`` of a mask ``(H, W)`` of class indices; what is none of them is black."""
    table = np.zeros((256, 3), np.uint8)
    table[:classes] = [colour(number) for number in range(classes)]
    return np.asarray(table[mask])


def opened(path: str) -> Image.Image:
    """An image as it is shown, in colours."""
    with Image.open(Path(path)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def saved(image: Image.Image, folder: Path, kind: str, name: str) -> None:
    """Write an image to ``folder/kind/name``, whole or not at all."""
    stream = io.BytesIO()
    image.save(stream, "PNG" if name.endswith(".png") else "JPEG", **({} if name.endswith(".png") else {"quality": 90}))
    replace_file(inside(folder_inside(folder, kind), name), stream.getvalue())


def bordered(image: Image.Image, mask: np.ndarray, edge: tuple[int, int, int]) -> None:
    """Draw the border of a mask of the image's size into it."""
    over = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    if over.size != image.size:
        over = over.resize(image.size, Image.Resampling.NEAREST)
    width = 2 * max(1, round(max(image.size) / 800)) + 1  # as thick as the lines of a box
    image.paste(edge, mask=ImageChops.difference(over, over.filter(ImageFilter.MinFilter(width))))


def overlaid(path: str, mask: np.ndarray, classes: int) -> Image.Image:
    """An image with the colours of its mask over it, at most ``LONGEST`` pixels a side."""
    over = Image.fromarray(in_colours(mask, classes))
    image = opened(path) if Path(path).is_file() else over
    found = Image.blend(image.resize(over.size), over, OPAQUE)
    found.thumbnail((LONGEST, LONGEST))
    return found

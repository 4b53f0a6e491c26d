"""Sheets of an outcome's images, with words above each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from visionlora.common.drawing import short, styled
from visionlora.tasks.interfaces import PartImages

THUMBNAIL = (160, 160)
COLUMNS = 6
"""Images beside each other."""


@styled
def sheet(images: PartImages, rows: Sequence[Sequence[int]], words: Sequence[Sequence[str]], titles: Sequence[str] = ()) -> Figure:
    """Images in rows.

    Args:
        images: of the part.
        rows: indices of the images of each row, at most ``COLUMNS``.
        words: above each image, all of them with as many lines.
        titles: at the left of each row; none where it is empty.
    """
    lines = words[0][0].count("\n") + 1
    figure = Figure(figsize=(1.3 * COLUMNS + 1.2 * bool(titles), (1.25 + 0.13 * lines) * len(rows)))
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes_row, row, texts in zip(grid, rows, words, strict=True):
        for axes, index, text in zip(axes_row, row, texts, strict=False):  # a row may be shorter
            axes.imshow(thumbnail(images, index))
            axes.set_title(text, fontsize=6, loc="center")
    for axes, title in zip(grid[:, 0], titles, strict=False):  # there may be no titles
        axes.text(-0.1, 0.5, title, transform=axes.transAxes, ha="right", va="center")
    return figure


def in_rows(images: PartImages, chosen: Sequence[int], words: Sequence[str]) -> Figure:
    """A sheet of images one after the other."""
    starts = range(0, len(chosen), COLUMNS)
    return sheet(images, [chosen[i : i + COLUMNS] for i in starts], [words[i : i + COLUMNS] for i in starts])


def thumbnail(images: PartImages, index: int) -> Image.Image:
    """An image as it is, made small."""
    image = images.open(index, 3, detail=THUMBNAIL[0])
    image.thumbnail(THUMBNAIL)
    return image


def file_name(images: PartImages, index: int) -> str:
    """The name of an image's file, shortened."""
    return short(Path(images.names[index]).name)

"""A mask in a file: the label of an image for ``task=segment``. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visionlora.common.errors import UnreadableError
from visionlora.tasks.placed import IGNORED

COLOURS = ("class_dict.csv", "labelmap.txt")
"""Files beside masks that are pictures in colours, one of which has the name and the colour of each class; the last is CVAT's."""


@dataclass(frozen=True)
class Numbering:
    """What the numbers, or the colours, in the masks of a data set stand for.

    Args:
        values: the number of each output.
        known: numbers from 0 up that are classes or no class; 255 is no class as well.
        colours: of the numbers from 0 up, as ``red << 16 | green << 8 | blue``; without any, masks are the numbers themselves.
    """

    values: tuple[int, ...]
    known: int
    colours: tuple[int, ...] = ()


@dataclass(frozen=True)
class MaskFile:
    """A file whose pixels are the numbers of classes, or their colours."""

    path: str
    numbering: Numbering

    def read(self) -> np.ndarray:
        """Index of the output of each pixel, or ``IGNORED``: uint8 ``(H, W)``.

        Raises:
            UnreadableError: it cannot be read, or has values beyond the classes.
        """
        values, known = self.numbering.values, self.numbering.known
        found = read_mask(self.path, self.numbering.colours)
        table = np.full(256, IGNORED, np.uint8)
        table[list(values)] = np.arange(len(values))
        present = np.flatnonzero(np.bincount(found.ravel(), minlength=256))
        beyond = [int(value) for value in present if value >= known and value != IGNORED]
        if beyond:
            raise UnreadableError(f"the mask {self.path} has the value {beyond[0]}, and the classes are 0 to {known - 1}")
        return np.asarray(table[found])


@dataclass(frozen=True, eq=False)
class MaskArray:
    """A mask in memory: uint8 ``(H, W)``, the index of the output of each pixel."""

    mask: np.ndarray

    def read(self) -> np.ndarray:
        """The mask."""
        return self.mask


def read_mask(path: str, colours: Sequence[int] = ()) -> np.ndarray:
    """The numbers in a file, uint8 ``(H, W)``.

    Args:
        path: of it.
        colours: see ``Numbering``.

    Raises:
        UnreadableError: it is no image, has colours in place of numbers, or one that has no number.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if colours and (image.mode in ("RGB", "RGBA", "P") or (image.mode in ("L", "1") and _greys(colours))):
                return _numbers_of(np.asarray(image.convert("RGB")), colours, path)
            if image.mode in ("RGB", "RGBA"):
                bands = np.asarray(image.convert("RGB"))
                if (bands[..., :1] != bands).any():
                    raise UnreadableError(
                        f"the mask {path} is a picture in colours; its pixels must be the numbers of classes,"
                        f" or {COLOURS[0]} beside the folders must say which colour is which class"
                    )
                return bands[..., 0]
            if image.mode not in ("L", "P", "1", "I;16", "I"):
                raise UnreadableError(f"the mask {path} has the mode {image.mode}; its pixels must be the numbers of classes")
            numbers = np.asarray(image)
    except OSError as error:
        raise UnreadableError(f"the mask {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if numbers.max(initial=0) > IGNORED:
        raise UnreadableError(f"the mask {path} has the value {numbers.max()}; classes are 0 to 254, and 255 is none")
    return numbers.astype(np.uint8)


def _greys(colours: Sequence[int]) -> bool:
    """Whether a grey picture can have them all; else its values are the numbers themselves."""
    return all(colour % 0x010101 == 0 for colour in colours)


def _numbers_of(bands: np.ndarray, colours: Sequence[int], path: str) -> np.ndarray:
    """The number of the colour of each pixel ``(H, W, 3)``."""
    packed = bands.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    order = np.argsort(colours)
    place = np.searchsorted(colours, packed, sorter=order).clip(max=len(colours) - 1)
    numbers = order[place]
    strange = np.argwhere(np.asarray(colours)[numbers] != packed)
    if len(strange):
        row, column = strange[0]
        colour = ", ".join(str(band) for band in bands[row, column])
        where = f"(row {row}, column {column})"
        raise UnreadableError(f"the mask {path} has the colour {colour} {where}, which {' or '.join(COLOURS)} does not name")
    return np.asarray(numbers, np.uint8)

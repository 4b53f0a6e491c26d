"""A mask in a file: the label of an image for ``task=segment``. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visionlora.common.errors import UnreadableError, UserError
from visionlora.tasks.placed import IGNORED

CLASSES = "classes.txt"
"""Beside images and masks: the names of the classes."""
NO_CLASS = ("void", "ignore", "ignored", "unlabelled", "unlabeled", "don't care")
"""Names, in lower case, of what is no class."""


@dataclass(frozen=True)
class MaskFile:
    """A file whose pixels are the numbers of classes.

    Args:
        path: of it.
        values: the number in the file of each output.
        known: numbers from 0 up that are classes or no class; 255 is no class as well.
    """

    path: str
    values: tuple[int, ...]
    known: int

    def read(self) -> np.ndarray:
        """Index of the output of each pixel, or ``IGNORED``: uint8 ``(H, W)``.

        Raises:
            UnreadableError: it cannot be read, or has values beyond the classes.
        """
        found = read_mask(self.path)
        table = np.full(256, IGNORED, np.uint8)
        table[list(self.values)] = np.arange(len(self.values))
        present = np.flatnonzero(np.bincount(found.ravel(), minlength=256))
        beyond = [int(value) for value in present if value >= self.known and value != IGNORED]
        if beyond:
            raise UnreadableError(f"the mask {self.path} has the value {beyond[0]}, and the classes are 0 to {self.known - 1}")
        return np.asarray(table[found])


@dataclass(frozen=True, eq=False)
class MaskArray:
    """A mask in memory: uint8 ``(H, W)``, the index of the output of each pixel."""

    mask: np.ndarray

    def read(self) -> np.ndarray:
        """The mask."""
        return self.mask


def read_mask(path: str) -> np.ndarray:
    """The numbers in a file, uint8 ``(H, W)``.

    Raises:
        UnreadableError: it is no image, or has colours in place of numbers.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("RGB", "RGBA"):
                bands = np.asarray(image.convert("RGB"))
                if (bands[..., :1] != bands).any():
                    raise UnreadableError(f"the mask {path} is a picture in colours; its pixels must be the numbers of classes")
                return bands[..., 0]
            if image.mode not in ("L", "P", "1", "I;16", "I"):
                raise UnreadableError(f"the mask {path} has the mode {image.mode}; its pixels must be the numbers of classes")
            numbers = np.asarray(image)
    except OSError as error:
        raise UnreadableError(f"the mask {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if numbers.max(initial=0) > IGNORED:
        raise UnreadableError(f"the mask {path} has the value {numbers.max()}; classes are 0 to 254, and 255 is none")
    return numbers.astype(np.uint8)


def known_classes(folder: Path, files: Sequence[Path]) -> tuple[list[str], tuple[int, ...], int]:
    """Names of the classes, their numbers in the files, and how many numbers from 0 up there may be, see ``MaskFile``: those of
    ``classes.txt`` in the folder, else what the masks have.

    Masks of 0 and 255 alone have a background and a foreground.

    Raises:
        UserError: ``classes.txt`` cannot be read or names fewer than two classes, or the masks have fewer.
    """
    file = folder / CLASSES
    names = read_classes(file) if file.is_file() else None
    if names is None or len(names) == 2:
        with ThreadPoolExecutor() as pool:
            present = set().union(*pool.map(lambda path: set(np.unique(read_mask(str(path))).tolist()), files))
        if present == {0, IGNORED}:
            return names or ["background", "foreground"], (0, IGNORED), 1
        names = names or [f"class{value}" for value in range(max(present - {IGNORED}, default=0) + 1)]
    values = tuple(value for value, name in enumerate(names) if name.lower() not in NO_CLASS)
    if len(values) < 2:
        where = f"{file} names" if file.is_file() else f"the masks of {folder} have"
        raise UserError(f"{where} {len(values)} class; a segmentation needs two, one of which may be the background.")
    return [names[value] for value in values], values, len(names)


def read_classes(file: Path) -> list[str]:
    """Names of classes, a line each; a number before every name is its place.

    Raises:
        UserError: it cannot be read, has no names, or one twice.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    numbered = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(words) == 2 and words[0].rstrip(":,").isdecimal() for words in numbered):
        places = [int(words[0].rstrip(":,")) for words in numbered]
        if sorted(places) != list(range(len(places))):
            raise UserError(f"{file}: the numbers of the classes are not 0 to {len(places) - 1}.")
        lines = [name for _, name in sorted(zip(places, (words[1] for words in numbered), strict=True))]
    twice = [name for place, name in enumerate(lines) if name in lines[:place]]
    if twice or not lines:
        raise UserError(f"{file}: " + (f"the class {twice[0]!r} is there twice." if twice else "it has no names."))
    return lines

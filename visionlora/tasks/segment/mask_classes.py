"""The names of the classes of masks, and what stands for them in the files. Free of torch."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import numpy as np

from visionlora.common.errors import UserError
from visionlora.common.text import counted
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.segment.mask_file import COLOURS, Numbering, read_mask

CLASSES = ("classes.txt", "codes.txt", "class_names.txt")
"""Files beside images and masks, one of which may have the names of the classes: ours, fast.ai's and labelme's."""
NO_CLASS = ("void", "ignore", "ignored", "unlabelled", "unlabeled", "don't care")
"""Names, in lower case, of what is no class."""


def known_classes(folder: Path, files: Sequence[Path]) -> tuple[list[str], Numbering]:
    """Names of the classes, and what stands for them in the files: by a file of ``COLOURS`` or of ``CLASSES`` in the folder, else by what
    the masks have.

    Masks of 0 and 255 alone have a background and a foreground.

    Raises:
        UserError: a file of names cannot be read or names fewer than two classes, or the masks have fewer; or they have 0 and 255 alone,
            and the file names other classes than two.
    """
    for name in COLOURS:
        if (file := folder / name).is_file():
            names, colours = read_colours(file)
            return _numbered(names, str(file), colours)
    file = next((folder / name for name in CLASSES if (folder / name).is_file()), folder / CLASSES[0])
    given = read_classes(file) if file.is_file() else None
    if given is None:
        with ThreadPoolExecutor() as pool:
            present = set().union(*pool.map(_values, files))
        if present == {0, IGNORED}:
            return ["background", "foreground"], Numbering((0, IGNORED), 1)
        return _numbered([f"class{value}" for value in range(max(present - {IGNORED}, default=0) + 1)], f"{folder}, by its masks,")
    if _black_and_white(files):
        classes = [name for name in given if name.lower() not in NO_CLASS]
        if len(given) == len(classes) == 2:
            return given, Numbering((0, IGNORED), 1)
        raise UserError(
            f"{file} names {counted(len(given), 'class', 'classes')}, and the masks have the values 0 and 255 alone, of which 255 is no"
            " class; name two classes, a background and a foreground, or write the numbers of the classes into the masks."
        )
    return _numbered(given, str(file))


def _black_and_white(files: Sequence[Path]) -> bool:
    """Whether the masks have 0 and 255 alone; most often the first says no."""
    present = set[int]()
    for file in files:
        present |= _values(file)
        if present - {0, IGNORED}:
            return False
    return IGNORED in present


def _values(file: Path) -> set[int]:
    """The numbers in a mask."""
    return set(np.unique(read_mask(str(file))).tolist())


def _numbered(names: Sequence[str], where: str, colours: tuple[int, ...] = ()) -> tuple[list[str], Numbering]:
    """The names that are classes, each with its place as its number."""
    if len(names) > IGNORED:
        raise UserError(f"{where} has {len(names)} classes; a mask has room for {IGNORED}, 0 to {IGNORED - 1}.")
    values = tuple(value for value, name in enumerate(names) if name.lower() not in NO_CLASS)
    if len(values) < 2:
        raise UserError(
            f"{where} has {counted(len(values), 'class', 'classes')}; a segmentation needs two, one of which may be the background."
        )
    return [names[value] for value in values], Numbering(values, len(names), colours)


def read_colours(file: Path) -> tuple[list[str], tuple[int, ...]]:
    """Names of classes and their colours: from a table with the columns ``name``, ``r``, ``g`` and ``b``, or of CVAT's ``labelmap.txt``.

    Raises:
        UserError: it cannot be read, lacks a column, or has a name or a colour twice.
    """
    names, colours = list[str](), list[int]()
    rows, form = (_cvat_rows, "lines such as road:128,64,128::") if file.suffix == ".txt" else (_rows, "the columns name, r, g and b")
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            for name, *bands in rows(stream):
                if not all(0 <= band <= 255 for band in bands):
                    raise ValueError(f"{bands} is no colour")
                names.append(name)
                colours.append(bands[0] << 16 | bands[1] << 8 | bands[2])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, csv.Error) as error:
        why = f"the column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}, line {len(names) + 2}: {why}; it must have {form}.") from None
    if not names or len(set(names)) < len(names) or len(set(colours)) < len(colours):
        raise UserError(f"{file} must have each name and each colour once, and has {len(names)} rows.")
    return names, tuple(colours)


def _rows(stream: TextIO) -> Iterator[tuple[str, int, int, int]]:
    for row in csv.DictReader(stream):
        cells = {str(key).strip().lower(): str(cell).strip() for key, cell in row.items()}
        yield (cells["name"], int(cells["r"]), int(cells["g"]), int(cells["b"]))


def _cvat_rows(stream: TextIO) -> Iterator[tuple[str, int, int, int]]:
    for line in stream:
        if line.strip() and not line.startswith("#"):
            name, colour = line.split(":")[:2]
            red, green, blue = (int(band) for band in colour.split(","))
            yield (name.strip(), red, green, blue)


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

"""What a user names to be classified: files, folders, lists of paths."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from visionlora.common.errors import UserError
from visionlora.data.files import find_images

COLUMNS = ("path", "file", "filename", "image", "image_path")
"""Headings under which a CSV file may have its paths; else they are in its first column."""


def paths_of(inputs: Sequence[str]) -> list[Path]:
    """Every image that is meant, in order: files, folders (searched through), a CSV file of paths, ``-`` for lines of standard input.

    A path in a CSV file is taken from the file's folder. Files named one by one need not be there: each becomes a row with its error.

    Raises:
        UserError: nothing there, or a CSV file without rows.
    """
    found: list[Path] = []
    for name in inputs:
        if name == "-":
            found += [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        elif Path(name).suffix.lower() == ".csv" and Path(name).is_file():
            found += _listed(Path(name))
        else:
            found += find_images(name)
    if not found:
        raise UserError(f"input={','.join(inputs)}: no image is named there.")
    return found


def _listed(file: Path) -> list[Path]:
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input={file} is not a CSV file: {error}.") from None
    rows = [row for row in rows if row]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(name) for name in COLUMNS if name in heading), None)
    cells = [row[column or 0].strip() for row in (rows if column is None else rows[1:]) if len(row) > (column or 0)]
    if not cells:
        raise UserError(f"input={file}: it has no rows; a column {' or '.join(COLUMNS[:2])} has the paths, else the first one.")
    return [file.parent / cell for cell in cells]

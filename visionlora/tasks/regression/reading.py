"""Numbers of images, read from the cells of a table. Free of torch."""

from __future__ import annotations

import math
from typing import Any

from visionlora.tasks.cells import Cells


def numbers_of(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    """The headings of the columns, and by part the numbers of each row, as a tuple.

    Raises:
        UserError: a cell is empty, or no finite number.
    """
    found: dict[str, list[Any]] = {}
    for part, rows in cells.parts.items():
        found[part] = []
        for row, values in enumerate(rows):
            numbers = []
            for column, cell in enumerate(values):
                try:
                    number = float(cell)
                except ValueError:
                    why = f"{cell!r} is no number" if cell.strip() else "it is empty, where a number is needed"
                    raise cells.refuse(part, row, column, why) from None
                if not math.isfinite(number):
                    raise cells.refuse(part, row, column, f"{cell!r} is no finite number")
                numbers.append(number)
            found[part].append(tuple(numbers))
    return list(cells.columns), found

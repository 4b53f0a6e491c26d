"""Classes of images, read from the cells of a table. Free of torch."""

from __future__ import annotations

from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.tasks.cells import Cells


def classes_of(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    """The classes of the training part in their order, and by part the number of each row's class.

    Raises:
        UserError: a cell is empty, another part has a class that the training part has not, or there is more than one column.
    """
    if len(cells.columns) > 1:
        raise UserError(f"data.label names {len(cells.columns)} columns, and an image has one class: name one, or take task=multilabel.")
    names = cells.sorted(cell.strip() for (cell,) in cells.parts["train"])
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[str, list[Any]] = {}
    for part, rows in cells.parts.items():
        found[part] = []
        for row, (cell,) in enumerate(rows):
            name = cell.strip()
            if not name:
                raise cells.refuse(part, row, 0, "it is empty, where a class is needed")
            if name not in numbers:
                raise cells.refuse(part, row, 0, f"no image of the training part is of the class {name!r}", did_you_mean(name, names))
            found[part].append(numbers[name])
    return names, found

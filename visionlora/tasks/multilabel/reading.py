"""Labels of several an image, read from the cells of a table. Free of torch."""

from __future__ import annotations

from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.tasks.cells import Cells

YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


def labels_of(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    """Names of the labels, and by part the numbers of those that each row has, as a tuple.

    One column holds the labels of a row, with a separator between them; it may be empty, for an image that has none. Several columns
    are a label each, 1 where it is there and 0 where it is not.

    Raises:
        UserError: a part has a label that the training part has not, a label is named twice in a cell, or a column of a label has
            another value.
    """
    return _of_columns(cells) if len(cells.columns) > 1 else _of_one(cells)


def _of_one(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    def several(cell: str) -> list[str]:
        return [label.strip() for label in cell.split(cells.separator) if label.strip()]

    names = cells.sorted(label for (cell,) in cells.parts["train"] for label in several(cell))
    if names and {name.lower() for name in names} <= {*YES, *NO}:
        raise UserError(
            f"{cells.file}: the column {cells.columns[0]} says of one label whether it is there; task=multilabel wants several such"
            " columns, data.label=[A,B], or one with the names of labels. One label is a classifier's: task=classify."
        )
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[str, list[Any]] = {}
    for part, rows in cells.parts.items():
        found[part] = []
        for row, (cell,) in enumerate(rows):
            labels = several(cell)
            for label in labels:
                if label not in numbers:
                    raise cells.refuse(part, row, 0, f"no image of the training part has the label {label!r}", did_you_mean(label, names))
            if len(set(labels)) < len(labels):
                raise cells.refuse(part, row, 0, f"a label is named twice in {cell!r}")
            found[part].append(tuple(sorted(numbers[label] for label in labels)))
    return names, found


def _of_columns(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for part, rows in cells.parts.items():
        found[part] = []
        for row, values in enumerate(rows):
            there = []
            for column, cell in enumerate(values):
                word = cell.strip().lower()
                if word not in YES + NO:
                    raise cells.refuse(part, row, column, f"{cell!r} is neither 1 nor 0; with several columns each is a label")
                if word in YES:
                    there.append(column)
            found[part].append(tuple(there))
    if not any(found["train"]):
        raise UserError(f"{cells.file}: not one row of the training part has one of the labels {', '.join(cells.columns)}.")
    return list(cells.columns), found

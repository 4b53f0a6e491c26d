"""The order of classes. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visionlora.tasks.cells import Cells
from visionlora.tasks.classify.reading import classes_of


def ranked(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    """Classes and labels as of a classifier; classes that are numbers are in the order of the numbers.

    Raises:
        UserError: see ``classes_of``.
    """
    names, labels = classes_of(cells)
    if cells.order or not numbers(names):
        return names, labels
    ordered = sorted(names, key=float)
    place = [ordered.index(name) for name in names]
    return ordered, {part: [place[label] for label in some] for part, some in labels.items()}


def numbers(names: Sequence[str]) -> list[float]:
    """The names as numbers; empty where one is none."""
    try:
        return [float(name) for name in names]
    except ValueError:
        return []

"""Plots of an evaluation of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionlora.common.drawing import short
from visionlora.tasks.matrix import matrix
from visionlora.tasks.sheets import file_name, in_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from visionlora.tasks.ordinal.outcome import OrdinalOutcome


def confusion(outcome: OrdinalOutcome) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), in their order."""
    return matrix(outcome.confusion(), outcome.task.names, f"{outcome.split}: off by {outcome.errors.mean():.2f} ranks on average")


def most_wrong(outcome: OrdinalOutcome) -> Figure | None:
    """A contact sheet of the images that are farthest off."""
    chosen, names = outcome.most_wrong(), outcome.task.names
    if not chosen:
        return None
    words = [
        f"is {short(names[outcome.true[i]], 22)}\ntaken for {short(names[outcome.predicted[i]], 15)}\n{file_name(outcome.images, i)}"
        for i in chosen
    ]
    return in_rows(outcome.images, chosen, words)

"""Plots of an evaluation of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from visionlora.common.drawing import BLUE, VERMILION, WIDTH, short, styled
from visionlora.tasks.sheets import file_name, in_rows

if TYPE_CHECKING:
    from visionlora.tasks.regression.outcome import RegressionOutcome

DRAWN = 6
"""Numbers that are drawn, at most: the first ones."""


@styled
def predicted(outcome: RegressionOutcome) -> Figure:
    """Predicted over true, a panel for each number."""
    figure, panels = _panels(outcome)
    for number, axes in enumerate(panels):
        true, found = outcome.true[:, number], outcome.found[:, number]
        low, high = float(min(true.min(), found.min())), float(max(true.max(), found.max()))
        axes.plot([low, high], [low, high], "--", color=VERMILION, linewidth=1)
        axes.plot(true, found, "o", color=BLUE, markersize=3.5, alpha=0.6, markeredgewidth=0)
        axes.set(xlabel=f"true {short(outcome.task.names[number], 24)}", ylabel="predicted", aspect="equal")
        report = outcome.report()[outcome.task.names[number]]
        axes.set_title(f"{outcome.split}: MAE {report['mae']:.3g}, R² {report['r2']:.2f}")
    return figure


@styled
def residuals(outcome: RegressionOutcome) -> Figure:
    """Predicted minus true over what is predicted, a panel for each number."""
    figure, panels = _panels(outcome)
    for number, axes in enumerate(panels):
        found = outcome.found[:, number]
        axes.axhline(0, linestyle="--", color=VERMILION, linewidth=1)
        axes.plot(found, found - outcome.true[:, number], "o", color=BLUE, markersize=3.5, alpha=0.6, markeredgewidth=0)
        axes.set(xlabel=f"predicted {short(outcome.task.names[number], 24)}", ylabel="predicted − true")
    return figure


def most_wrong(outcome: RegressionOutcome) -> Figure | None:
    """A contact sheet of the images with the largest errors."""
    chosen = outcome.most_wrong()
    if not chosen:
        return None
    largest = np.abs(outcome.found - outcome.true).argmax(1)
    words = []
    for index in chosen:
        true, found = outcome.true[index, largest[index]], outcome.found[index, largest[index]]
        words.append(f"is {true:.4g}\ntaken for {found:.4g}\n{file_name(outcome.images, index)}")
    return in_rows(outcome.images, chosen, words)


def _panels(outcome: RegressionOutcome) -> tuple[Figure, list]:
    count = min(len(outcome.task.names), DRAWN)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH / 2 if count == 1 else WIDTH * columns / 3, 3.4 * rows))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)[:count]

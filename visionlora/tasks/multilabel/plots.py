"""Plots of an evaluation with several labels an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from visionlora.common.drawing import GREY, PALETTE, WIDTH, legend_below, percent, short, styled
from visionlora.tasks.sheets import file_name, in_rows

if TYPE_CHECKING:
    from visionlora.tasks.multilabel.outcome import MultilabelOutcome

NAMED = len(PALETTE)
"""Labels with a colour of their own: those with the lowest average precision."""


@styled
def precision_recall(outcome: MultilabelOutcome) -> Figure:
    """Precision over recall, a curve for each label, with a point at its threshold."""
    figure = Figure(figsize=(WIDTH * 0.75, 4.2))
    axes = figure.subplots()
    report, names = outcome.report(), outcome.task.names
    known = [number for number, name in enumerate(names) if report[name]["average-precision"] is not None]
    worst = sorted(known, key=lambda number: report[names[number]]["average-precision"])
    for number in reversed(worst):
        precision, recall, _ = precision_recall_curve(outcome.there[:, number], outcome.probabilities[:, number])
        place, name = worst.index(number), names[number]
        colour = PALETTE[place] if place < NAMED else GREY
        label = f"{short(name, 18)} {report[name]['average-precision']:.0%}" if place < NAMED else None
        axes.plot(recall, precision, color=colour, linewidth=1.2 if place < NAMED else 0.6, label=label)
        axes.plot(report[name]["recall"], report[name]["precision"], "o", color=colour, markersize=4)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    shown = f", the {NAMED} lowest named" if len(known) > NAMED else ""
    axes.set_title(f"{outcome.split}: average precision of {len(known)} labels{shown}")
    percent(axes.xaxis)
    percent(axes.yaxis)
    legend_below(figure, axes, columns=3)
    return figure


def most_wrong(outcome: MultilabelOutcome) -> Figure:
    """A contact sheet of the images with the highest loss among those with a wrong label: what is missed and what is too much."""
    chosen = outcome.most_wrong()
    words = [
        f"misses {_some(outcome, i, outcome.there[i] & ~outcome.given[i])}\nadds {_some(outcome, i, outcome.given[i] & ~outcome.there[i])}"
        f"\n{file_name(outcome.images, i)}"
        for i in chosen
    ]
    return in_rows(outcome.images, chosen, words)


def _some(outcome: MultilabelOutcome, index: int, which: np.ndarray) -> str:
    names = [short(outcome.task.names[number], 10) for number in np.flatnonzero(which)]
    return ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "") or "none"

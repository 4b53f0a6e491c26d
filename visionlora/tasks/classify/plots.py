"""Plots of an evaluation: confusion, calibration, and sheets of the images themselves."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from visionlora.common.drawing import BLUE, GREY, VERMILION, WIDTH, legend_below, percent, short, styled
from visionlora.tasks.classify.classified import BINS, Classified
from visionlora.tasks.matrix import matrix
from visionlora.tasks.sheets import COLUMNS, file_name, in_rows, sheet


def confusion(outcome: Classified) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), with the numbers of images."""
    right = f"{outcome.right.mean():.1%} of {len(outcome.right):,} right"
    return matrix(outcome.confusion(), outcome.classes, f"{outcome.split}: {right}")


@styled
def reliability(outcome: Classified) -> Figure:
    """Accuracy against confidence, and how the confidences are spread."""
    sure, right = outcome.probabilities.max(-1).values.numpy(), outcome.right
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    figure = Figure(figsize=(WIDTH / 2, 4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    found = np.unique(bins)
    places, width = (found + 0.5) / BINS, 0.9 / BINS
    above.bar(places, [right[bins == number].mean() for number in found], width, color=BLUE, label="accuracy")
    below.bar(places, [(bins == number).mean() for number in found], width, color=GREY)
    above.plot([0, 1], [0, 1], "--", color=VERMILION, label="calibrated")
    above.set(ylabel="accuracy", title=f"Calibration error {outcome.calibration_error():.1%}", ylim=(0, 1))
    below.set(xlabel="confidence", ylabel="share of images", xlim=(0, 1))
    for axis in (above.yaxis, below.yaxis, below.xaxis):
        percent(axis)
    legend_below(figure, above)
    return figure


def most_wrong(outcome: Classified) -> Figure:
    """A contact sheet of the wrong images it was surest of, each with what it is, what it was taken for, and its file's name."""
    sure, predicted = outcome.probabilities.max(-1).values, outcome.predicted
    chosen = outcome.most_wrong()
    taken = [f"taken for {short(outcome.classes[predicted[i]], 15)} {float(sure[i]):.0%}" for i in chosen]
    words = [f"{_is(outcome, i)}\n{what}\n{file_name(outcome.images, i)}" for i, what in zip(chosen, taken, strict=True)]
    return in_rows(outcome.images, chosen, words)


def confused(outcome: Classified) -> Figure:
    """The pairs confused most, a row each, with images that were and their files' names."""
    predicted, labels = outcome.predicted, outcome.targets.numpy()
    rows, titles = [], []
    for true, taken, number in outcome.confused():
        rows.append([int(i) for i in np.flatnonzero((labels == true) & (predicted == taken))[:COLUMNS]])
        titles.append(f"{short(outcome.classes[true], 20)}\ntaken for\n{short(outcome.classes[taken], 20)}\n{number} ×")
    return sheet(outcome.images, rows, [[file_name(outcome.images, i) for i in row] for row in rows], titles)


def _is(outcome: Classified, index: int) -> str:
    return f"is {short(outcome.classes[int(outcome.targets[index])], 22)}"

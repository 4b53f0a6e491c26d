"""Pictures of an evaluation: confusion, calibration, and the photographs themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from visionlora.evaluation.outcome import BINS, Outcome
from visionlora.files import inside, save_figure

NAMED = 40
"""Classes up to which a confusion matrix has their names."""
THUMBNAIL = (160, 160)


def save_all(outcome: Outcome, folder: Path) -> list[Path]:
    """``confusion.png``, ``reliability.png`` and, where something is wrong, ``most_wrong.png`` and ``confused.png``."""
    figures = {"confusion": confusion(outcome), "reliability": reliability(outcome)}
    if not outcome.right.all():
        figures |= {"most_wrong": most_wrong(outcome), "confused": confused(outcome)}
    for stale in ("most_wrong", "confused"):
        inside(folder, f"{stale}.png").unlink(missing_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(inside(folder, f"{name}.png"))
        save_figure(figure, paths[-1])
    return paths


def confusion(outcome: Outcome) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns)."""
    table, classes = outcome.confusion(), outcome.classes
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.45 * len(classes) + 2), 14.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), shrink=0.8)
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)  # $ in a name is a dollar
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    if len(classes) <= 20:
        for row, column in np.ndindex(table.shape):
            if table[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title=f"{outcome.split}: {outcome.right.mean():.1%} of {len(outcome.right):,} right")
    return figure


def reliability(outcome: Outcome) -> Figure:
    """Accuracy against confidence, and how the confidences are spread."""
    sure, right = outcome.probabilities.max(-1).values.numpy(), outcome.right
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    figure = Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number in np.unique(bins):
        chosen = bins == number
        place, width = (number + 0.5) / BINS, 0.9 / BINS
        above.bar(place, right[chosen].mean(), width, color="#2166ac")
        below.bar(place, chosen.mean(), width, color="#999999")
    above.plot([0, 1], [0, 1], "--", color="#d6604d", label="calibrated")
    above.set(ylabel="accuracy", title=f"Calibration error {outcome.calibration_error():.1%}", ylim=(0, 1))
    below.set(xlabel="confidence", ylabel="share", xlim=(0, 1))
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    above.legend(frameon=False)
    return figure


def most_wrong(outcome: Outcome) -> Figure:
    """A contact sheet of the wrong pictures it was surest of."""
    chosen = outcome.most_wrong()
    sure, predicted = outcome.probabilities.max(-1).values, outcome.predicted
    words = [f"{outcome.classes[predicted[i]]} {float(sure[i]):.0%}\nis {outcome.classes[int(outcome.labels[i])]}" for i in chosen]
    return _sheet(outcome, [chosen], [""], [words], columns=6)


def confused(outcome: Outcome) -> Figure:
    """The pairs confused most, a row each, with pictures that were."""
    predicted, labels = outcome.predicted, outcome.labels.numpy()
    rows, titles = [], []
    for true, taken, number in outcome.confused():
        rows.append([int(i) for i in np.flatnonzero((labels == true) & (predicted == taken))[:6]])
        titles.append(f"{outcome.classes[true]}\ntaken for\n{outcome.classes[taken]}\n{number} ×")
    return _sheet(outcome, rows, titles, None, columns=6)


def _sheet(outcome: Outcome, groups: list[list[int]], titles: list[str], words: list[list[str]] | None, columns: int) -> Figure:
    rows = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    names = [text for group in words or [] for text in group]
    figure = Figure(figsize=(1.7 * columns + 1.5, 2.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    shown = 0
    for axes_row, row, title in zip(grid, rows, [*titles, *[""] * len(rows)], strict=False):
        for place, axes in enumerate(axes_row):
            axes.set_axis_off()
            if place < len(row):
                axes.imshow(thumbnail(outcome, row[place]))
                if names:
                    axes.set_title(names[shown], fontsize=8, parse_math=False)
                shown += 1
        where = axes_row[0].transAxes
        axes_row[0].text(-0.1, 0.5, title, transform=where, ha="right", va="center", fontsize=9, parse_math=False)
    return figure


def thumbnail(outcome: Outcome, index: int) -> Image.Image:
    """A picture as it is, made small."""
    image = outcome.pictures.open(index, 3, detail=THUMBNAIL[0])
    image.thumbnail(THUMBNAIL)
    return image

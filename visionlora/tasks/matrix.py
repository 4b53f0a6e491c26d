"""A confusion matrix, drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from visionlora.common.drawing import Percent, short, styled

NAMED = 40
"""Classes up to which a confusion matrix has their names."""
COUNTED = 20
"""Classes up to which a confusion matrix has its numbers."""


@styled
def matrix(table: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), with the numbers of images.

    Args:
        table: images by true and predicted class, ``(classes, classes)``.
        names: of the classes.
        title: of the plot.
    """
    classes = [short(name, 20) for name in names]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(max(3.2, 0.34 * len(classes) + 1.4), 10.0)
    figure = Figure(figsize=(side + 0.6, side))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, format=Percent(), shrink=0.8, label="share of the true class")
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= COUNTED:
        for row, column in np.ndindex(table.shape):
            if table[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=7)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure

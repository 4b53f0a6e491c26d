"""Plots of an evaluation of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from visionlora.common.drawing import PALETTE, WIDTH, short, styled
from visionlora.tasks.colours import colour
from visionlora.tasks.detect.layout import COLUMNS as OF_BOX
from visionlora.tasks.detect.masks import pasted
from visionlora.tasks.sheets import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from visionlora.tasks.detect.outcome import DetectOutcome

SHOWN, COLUMNS = 12, 4
"""Images of a plot, and beside each other."""
PIXELS = 480
"""Of the longer side of an image that is drawn."""
DRAWN = len(PALETTE)
"""Curves: of the classes with most objects."""


@styled
def precision_recall(outcome: DetectOutcome) -> Figure:
    """Precision over recall at half overlap, a curve for each class."""
    figure = Figure(figsize=(WIDTH / 2, 3.2))
    axes = figure.subplots()
    report, precision = outcome.report(), outcome.coco["precision"]
    order = sorted(range(len(report)), key=lambda place: -list(report.values())[place]["objects"])[:DRAWN]
    recall = np.linspace(0, 100, precision.shape[1])
    for number, place in enumerate(order):
        name, row = list(report.items())[place]
        axes.plot(
            recall,
            100 * precision[0, :, place, 0, -1].clamp(min=0),
            color=PALETTE[number],
            label=f"{short(name, 20)}, AP {row['map50']:.0%}",
        )
    axes.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 101), ylim=(0, 103))
    axes.set_title(f"{outcome.split}: mAP50 {outcome.metrics()[f'{outcome.split}/map50']:.1%}")
    axes.legend(loc="lower left")
    return figure


def most_wrong(outcome: DetectOutcome) -> Figure | None:
    """The images with most errors: what is found in the colour of its class, what is missed dashed in white; ``None`` without errors."""
    chosen = outcome.most_wrong(SHOWN)
    return _sheet(outcome, chosen) if chosen else None


@styled
def _sheet(outcome: DetectOutcome, chosen: Sequence[int]) -> Figure:
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.75 * rows))
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, index in zip(panels, chosen, strict=False):  # the last row may not be full
        _draw(axes, outcome, index)
    return figure


def _draw(axes: Axes, outcome: DetectOutcome, index: int) -> None:
    image = outcome.images.open(index, 3)
    image.thumbnail((PIXELS, PIXELS))
    side = max(image.size)
    axes.imshow(np.asarray(image))
    least = outcome.task.threshold  # type: ignore[attr-defined]
    for one in outcome.found[index]:
        kind, score, *box = one[:OF_BOX].tolist()
        if kind >= 0 and score >= least:
            edge = tuple(value / 255 for value in colour(int(kind)))
            _box(axes, [value * side for value in box], edge, "-")
            if len(one) > OF_BOX and (mask := pasted(one[None, OF_BOX:], side, (image.height, image.width))[0]).any():
                axes.contour(mask.float().numpy(), levels=[0.5], colors=[edge], linewidths=0.7)
    objects = outcome.targets[index][outcome.targets[index][:, 0] >= 0]
    for place in outcome.matches[index].missed:
        _box(axes, (objects[place, 1:5] * side).tolist(), (1.0, 1.0, 1.0), "--")
    axes.set(xlim=(0, image.width), ylim=(image.height, 0))
    axes.set_title(f"{file_name(outcome.images, index)}\n{outcome.words(index)}", fontsize=6)


def _box(axes: Axes, box: list[float], edge: tuple[float, ...], style: str) -> None:
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge, linestyle=style, linewidth=0.9))

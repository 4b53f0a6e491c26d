"""Plots of an evaluation of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from visionlora.common.drawing import BLUE, WIDTH, short, styled
from visionlora.tasks.colours import OPAQUE, in_colours
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.sheets import file_name

if TYPE_CHECKING:
    from visionlora.tasks.segment.outcome import SegmentOutcome

SHOWN = 6
"""Images of a plot."""
MOST = 60
"""Classes that are drawn: the worst ones."""


@styled
def classes(outcome: SegmentOutcome) -> Figure:
    """Intersection over union of each class."""
    report = sorted(outcome.report().items(), key=lambda item: item[1]["iou"])[:MOST]
    figure = Figure(figsize=(WIDTH / 2, 0.6 + 0.2 * len(report)))
    axes = figure.subplots()
    axes.barh([short(name, 24) for name, _ in report], [100 * row["iou"] for _, row in report], color=BLUE)
    for place, (_, row) in enumerate(report):
        axes.text(100 * row["iou"] + 1, place, f"{row['iou']:.0%}", va="center", fontsize=7)
    axes.set(xlim=(0, 110), xlabel="intersection over union, %")
    axes.set_title(f"{outcome.split}: mIoU {outcome.metrics()[f'{outcome.split}/miou']:.1%}")
    return figure


@styled
def masks(outcome: SegmentOutcome, chosen: Sequence[int]) -> Figure:
    """Each image with what is true and what is predicted in colours over it, and the border of what is true in white."""
    figure = Figure(figsize=(1.75 * len(chosen), 3.9))
    grid = figure.subplots(2, len(chosen), squeeze=False)
    for column, index in enumerate(chosen):
        true, found = outcome.targets[index].numpy(), outcome.maps[index].numpy()
        image = outcome.images.open(index, 3)
        share = true.shape[0] / max(image.size)
        size = max(round(image.width * share), 1), max(round(image.height * share), 1)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        true, found = true[: size[1], : size[0]], found[: size[1], : size[0]]
        border = _border(true)
        for axes, mask, words in ((grid[0, column], true, "true"), (grid[1, column], found, "predicted")):
            over = in_colours(np.where(mask == IGNORED, IGNORED, mask).astype(np.uint8), len(outcome.task.names))
            shown = np.where((mask == IGNORED)[..., None], pixels, (1 - OPAQUE) * pixels + OPAQUE * over).astype(np.uint8)
            axes.imshow(np.where(border[..., None], np.uint8(255), shown))
            axes.set_axis_off()
            axes.set_title(
                f"{file_name(outcome.images, index)}\n{words}" if words == "true" else f"{words}, mIoU {outcome.of_images[index]:.0%}",
                fontsize=6,
            )
    return figure


def _border(mask: np.ndarray) -> np.ndarray:
    """Pixels beside one of another class."""
    border = np.zeros(mask.shape, bool)
    border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    return border

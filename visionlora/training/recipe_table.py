"""The table of ``recipe=auto``; its cells are in ``benchmarks/results/recipes.json``, and ``docs/recipes.md`` shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from visionlora.training.strength import FEW


@dataclass(frozen=True)
class Row:
    """What is taken up to a number of training images.

    Args:
        most: training images.
        head: how the head starts, ``probe`` or ``random``.
        rate: the learning rate in units of the usual one of optimizer and method, where the head is the probe; else it is the usual one.
        epochs: of ``recipe=auto``.
        batch: images a batch.
    """

    most: float
    head: str
    rate: float
    epochs: int
    batch: int


RANKS = {
    "classify": (16, "for classes as good as 4 or better with any number of images"),
    "detect": (16, "for boxes level with 4 on photographs and better on drawn digits"),
    "segment": (16, "for masks better than 4 in four of four pairs of runs"),
}
"""Rank of the updates by task, and why, where it was measured (docs/recipes.md, docs/boxes_measured.md); others have the usual one."""
RATES = {"detect": (300, 2.0)}
"""Learning rate of the adapters by task up to so many training images, in units of the usual one, where it was better on validation
images; with more images, and so fewer epochs, it was worse (docs/boxes_measured.md)."""
PLAIN = Row(math.inf, "random", 1.0, 3, 64)
"""``recipe=plain``: what the command took for all data before there were recipes."""
TABLE = (
    Row(100, "probe", 1 / 3, 12, 16),
    Row(200, "probe", 1 / 2, 12, 16),
    Row(500, "probe", 2 / 3, 12, 16),
    Row(1_000, "probe", 1.0, 6, 16),
    Row(2_000, "probe", 1.0, 6, 32),
    Row(5_000, "probe", 1.0, 5, 32),
    Row(20_000, "probe", 1.0, 5, 64),
    Row(math.inf, "probe", 1.0, 3, 64),
)
PLACED = (
    Row(100, "random", 1.0, 40, 8),
    Row(300, "random", 1.0, 25, 8),
    Row(1_000, "random", 1.0, 10, 8),
    Row(5_000, "random", 1.0, 6, 8),
    Row(math.inf, "random", 1.0, 3, 16),
)
"""With boxes or masks: a decoder that is made anew wants some thousand steps."""
RATE_OF_FEW = 1 / 6
"""The highest rate with fewer than ``FEW`` images a class, as a share of the usual one."""
SHARES = {"fast": 1 / 3, "best": 2.0}
"""Epochs of the other recipes, in units of those of ``auto``."""


def placed_row(images: int) -> tuple[Row, str]:
    """The row to be taken with boxes or masks, and why."""
    row = next(row for row in PLACED if images <= row.most)
    size = f"up to {row.most:,}" if row.most < math.inf else f"above {PLACED[-2].most:,}"
    return row, f"{size} training images with boxes or masks (there are {images:,})"


def row_for(images: int, a_class: float, method: str) -> tuple[Row, str]:
    """The row to be taken, and why. Full fine-tuning and the head alone were not measured: they start at random, with their usual rates.

    Args:
        images: of training.
        a_class: of these, for each class on average.
        method: ``lora.method``.
    """
    row = next(row for row in TABLE if images <= row.most)
    why = f"up to {row.most:,} training images" if row.most < math.inf else f"above {TABLE[-2].most:,} training images"
    why = f"{why} (there are {images:,})"
    if a_class < FEW and row.rate > RATE_OF_FEW:
        row, why = replace(row, rate=RATE_OF_FEW), f"{why}, {a_class:.2g} a class"
    if method in ("none", "full"):
        row = replace(row, head="random", rate=1.0)
    return row, why

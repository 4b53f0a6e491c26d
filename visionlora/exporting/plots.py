"""Plots of compressed models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from visionlora.common.drawing import BLUE, ORANGE, SKY, VERMILION, WIDTH, legend_below, percent, short, styled

if TYPE_CHECKING:
    from visionlora.exporting.compressing import Compressed


@styled
def compressed(rows: Sequence[Compressed]) -> Figure:
    """The leading measure with its interval, bytes and latency of each model."""
    figure = Figure(figsize=(WIDTH, 3))
    scores, size, latency = figure.subplots(1, 3)
    places, names = range(len(rows)), [short(row.name, 18) for row in rows]
    bounds = [(row.score if row.low is None else row.low, row.score if row.high is None else row.high) for row in rows]
    errors = [
        [row.score - low for row, (low, _) in zip(rows, bounds, strict=True)],
        [high - row.score for row, (_, high) in zip(rows, bounds, strict=True)],
    ]
    scores.errorbar(places, [row.score for row in rows], yerr=errors, fmt="o", color=BLUE, label="95 % interval")
    scores.set(ylabel=rows[0].measure.words, xlim=(-0.6, len(rows) - 0.4))
    if rows[0].measure.share:
        percent(scores.yaxis)
    size.bar([i - 0.2 for i in places], [row.bytes / 1e6 for row in rows], 0.4, label="file", color=BLUE)
    size.bar([i + 0.2 for i in places], [row.zipped / 1e6 for row in rows], 0.4, label="zipped", color=SKY)
    size.set_ylabel("size, MB")
    latency.bar([i - 0.2 for i in places], [row.ms_1 for row in rows], 0.4, label="one by one", color=VERMILION)
    latency.bar([i + 0.2 for i in places], [row.ms_32 / 32 for row in rows], 0.4, label="in batches of 32", color=ORANGE)
    latency.set_ylabel("ms an image")
    for axes in (scores, size, latency):
        axes.set_xticks(places, names, rotation=35, ha="right")
        axes.grid(visible=False, axis="x")
    legend_below(figure, scores, size, latency)
    return figure

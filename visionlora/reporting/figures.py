"""Pictures of many runs, and of where one changed the network; with matplotlib, for papers, notebooks and pages without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from visionlora.reporting.runs import Configuration, is_share
from visionlora.rows import is_number

if TYPE_CHECKING:
    from visionlora.lora.changes import LayerChange

LINES = {"none": ("linear probe", "#777777"), "norm": ("norms and head", "#b8860b"), "full": ("full fine-tuning", "#d6604d")}
"""Methods without a rank: lines, not points."""


def accuracy_by(found: Sequence[Configuration], key: str = "lora.r", metric: str = "test/top1") -> Figure:
    """A metric against a key of the config (logarithmic), seeds as 95 % intervals; a probe and full fine-tuning as lines.

    Args:
        found: configurations.
        key: with numbers, such as ``lora.r``, ``lora.alpha`` or ``optim.lr``.
        metric: a key of ``results.json``.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    points = []
    for c in found:
        y, x = c.summary(metric), c.runs[0].config.get(key)
        if y is None:
            continue
        if c.method in LINES:
            label, colour = LINES[c.method]
            axes.axhline(y.mean, linestyle="--", color=colour, label=f"{label}: {y}")
            if not math.isnan(y.half):
                axes.axhspan(y.mean - y.half, y.mean + y.half, color=colour, alpha=0.08, linewidth=0)
        elif is_number(x):
            points.append((x, y))
    points.sort(key=lambda point: point[0])
    if points:
        halves = [0.0 if math.isnan(y.half) else y.half for _, y in points]
        axes.errorbar([x for x, _ in points], [y.mean for _, y in points], yerr=halves, fmt="o-", color="#2166ac", capsize=3, label="LoRA")
        axes.set_xscale("log", base=2 if key == "lora.r" else 10)
        axes.set_xticks(sorted({x for x, _ in points}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    axes.set(xlabel=key, ylabel=metric)
    if is_share(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def changes_by_layer(changes: Sequence[LayerChange] | Mapping[str, Sequence[LayerChange]]) -> Figure:
    """``‖ΔW‖ / ‖W‖`` and effective rank, layer by layer, of one model or of several by name."""
    several = changes if isinstance(changes, Mapping) else {"": changes}
    names = list(dict.fromkeys(change.name for rows in several.values() for change in rows))
    figure = Figure(figsize=(max(7.0, 0.17 * len(names)), 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for label, rows in several.items():
        places = [names.index(change.name) for change in rows]
        above.plot(places, [change.relative for change in rows], "o-", markersize=4, linewidth=1, label=label)
        below.plot(places, [change.effective_rank for change in rows], "o-", markersize=4, linewidth=1, label=label)
    below.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    above.set(ylabel="‖ΔW‖ / ‖W‖", title="How far each weight moved")
    above.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set(ylabel="effective rank", title="In how many directions")
    for axes in (above, below):
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    if any(several):
        above.legend(frameon=False)
    return figure

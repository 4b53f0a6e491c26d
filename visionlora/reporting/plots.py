"""Plots of many runs, and of where one changed the network; with matplotlib, for papers, notebooks and pages without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visionlora.common.drawing import (
    BLACK,
    BLUE,
    GREY,
    MARKERS,
    METHOD_COLOURS,
    PALETTE,
    WIDTH,
    costs,
    label_point,
    legend_below,
    numbers,
    percent,
    styled,
)
from visionlora.common.labels import METHODS
from visionlora.common.rows import is_number, shown
from visionlora.reporting.runs import Configuration, in_words, leading, ranked, written
from visionlora.reporting.summary import Summary
from visionlora.tasks.words import higher_is_better, is_share, label

if TYPE_CHECKING:
    from visionlora.lora.changes import LayerChange

WITHOUT_RANK = ("none", "norm", "full")
"""Methods that are lines beside LoRA's points."""
LAYERS = 60
"""Names of layers that are written beside each other; of more, some are left out."""


@styled
def accuracy_by(found: Sequence[Configuration], key: str = "lora.r", metric: str | None = None) -> Figure:
    """A metric against a number of the config, the spread over seeds as bars; the head alone and full fine-tuning as lines.

    Configurations that differ in ``key`` alone are joined by a line. Of several such lines the best is drawn.

    Args:
        found: configurations.
        key: with numbers, such as ``lora.r``, ``lora.alpha`` or ``optim.lr``.
        metric: a key of ``results.json``; by default what leads the task, on the test part.
    """
    metric, task = metric or leading(found), found[0].task if found else None
    figure = Figure(figsize=(0.7 * WIDTH, 3.3))
    axes = figure.subplots()
    drawn = [(c, y) for c in ranked(found, metric) if (y := c.summary(metric)) is not None]
    lines = WITHOUT_RANK if any(c.method not in WITHOUT_RANK for c, _ in drawn) else ()  # a sweep of heads alone has points
    for method in lines:
        if best := next((y for c, y in drawn if c.method == method), None):
            axes.axhline(
                best.mean, linestyle="--", color=METHOD_COLOURS[method], label=f"{METHODS[method]}: {written(best, metric, found[0].task)}"
            )
            if best.high > best.low:
                axes.axhspan(best.low, best.high, color=METHOD_COLOURS[method], alpha=0.1, linewidth=0)
    series: dict[str, list[tuple[float, Summary]]] = {}
    for c, y in drawn:
        x = c.runs[0].config.get(key)
        if c.method not in lines and is_number(x):
            rest = {name: value for name, value in c.changed.items() if name != key}
            series.setdefault(in_words(rest, c.method) or METHODS.get(c.method, c.method), []).append((x, y))
    joined = len(series) <= len(PALETTE)
    if not joined:  # a search: hardly two differ in one thing alone
        series = {"configurations": [point for points in series.values() for point in points]}
    for number, (name, points) in enumerate(sorted(series.items())):
        points.sort(key=lambda point: point[0])
        look = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)], "label": name}
        _points(axes, [x for x, _ in points], [y for _, y in points], linestyle="-" if joined else "", **look)
    if places := [x for points in series.values() for x, _ in points]:
        numbers(axes.xaxis, places)
    axes.set(xlabel=label(key), ylabel=label(metric, task))
    if is_share(metric, task):
        percent(axes.yaxis)
    legend_below(figure, axes, columns=2)
    return figure


@styled
def accuracy_against(found: Sequence[Configuration], cost: str = "params/trainable", metric: str | None = None) -> Figure:
    """A metric of each configuration against what it costs, the rank beside each point, with the Pareto front.

    Args:
        found: configurations.
        cost: a key of ``results.json``.
        metric: another one; by default what leads the task, on the test part.
    """
    metric, task = metric or leading(found), found[0].task if found else None
    figure = Figure(figsize=(0.7 * WIDTH, 3.3))
    axes = figure.subplots()
    points = [(c, x, y) for c in found if (x := c.summary(cost)) is not None and (y := c.summary(metric)) is not None]
    for number, method in enumerate(dict.fromkeys(c.method for c, _, _ in points)):
        chosen = [point for point in points if point[0].method == method]
        look = {"color": METHOD_COLOURS.get(method, BLUE), "marker": MARKERS[number % len(MARKERS)], "label": METHODS.get(method, method)}
        _points(axes, [x.mean for _, x, _ in chosen], [y for _, _, y in chosen], linestyle="", **look)
        for c, x, y in chosen:
            label_point(axes, beside(c, found), (x.mean, y.mean))
    edge = pareto([(x.mean, y.mean) for _, x, y in points], lower=not higher_is_better(metric, task))
    axes.step([x for x, _ in edge], [y for _, y in edge], where="post", color=BLACK, linewidth=0.8, zorder=1, label="Pareto front")
    if points:
        costs(axes.xaxis, [x.mean for _, x, _ in points])
    axes.set(xlabel=label(cost), ylabel=label(metric, task))
    if is_share(metric, task):
        percent(axes.yaxis)
    legend_below(figure, axes)
    return figure


@styled
def changes_by_layer(changes: Sequence[LayerChange] | Mapping[str, Sequence[LayerChange]]) -> Figure:
    """``‖ΔW‖ / ‖W‖`` and effective rank, a line a layer from the first down to the last, of one model or of several by name.

    The rank that a layer's adapter has room for is a grey stroke.
    """
    several = changes if isinstance(changes, Mapping) else {"": changes}
    names = list(dict.fromkeys(change.name for rows in several.values() for change in rows))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.13 * max(4, min(len(names), LAYERS))))
    moved, directions = figure.subplots(1, 2, sharey=True)
    for number, (name, rows) in enumerate(several.items()):
        places = [names.index(change.name) for change in rows]
        look = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)], "linestyle": "", "label": name or "ΔW"}
        directions.plot([change.rank for change in rows], places, "|", color=GREY, label=None if number else "rank of the adapter")
        moved.plot([change.relative for change in rows], places, **look)
        directions.plot([change.effective_rank for change in rows], places, **look)
    step = -(-len(names) // LAYERS)
    moved.set_yticks(range(0, len(names), step), names[::step], fontsize=6)
    moved.invert_yaxis()
    moved.set(xlabel="‖ΔW‖ / ‖W‖", title="How far each weight moved")
    percent(moved.xaxis)
    directions.set(xlabel="effective rank of ΔW", title="In how many directions")
    for axes in (moved, directions):
        axes.margins(x=0.06, y=0.02)
        axes.set_xlim(0)
    legend_below(figure, directions)
    return figure


def pareto(points: Iterable[tuple[float, float]], lower: bool = False) -> list[tuple[float, float]]:
    """The points that no other is both cheaper and better than, cheapest first; ``lower``: less is better."""
    edge: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], point[1] if lower else -point[1])):
        if not edge or (score < edge[-1][1] if lower else score > edge[-1][1]):
            edge.append((cost, score))
    return edge


def beside(c: Configuration, among: Sequence[Configuration]) -> str:
    """What is written beside a configuration's point: its rank, where ranks differ and there is room for it."""
    rank = c.changed.get("lora.r")
    return f"r={shown(rank)}" if rank is not None and len(among) <= MARKED else ""


MARKED = 40
"""Configurations up to which each has its rank beside its point."""


def _points(axes: Axes, x: Sequence[float], y: Sequence[Summary], **look: Any) -> None:
    bars = [[s.mean - s.low for s in y], [s.high - s.mean for s in y]]
    axes.errorbar(x, [s.mean for s in y], yerr=bars, elinewidth=0.9, zorder=3, **look)

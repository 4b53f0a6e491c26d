"""Plots of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from visionlora.common.drawing import BLACK, BLUE, GREEN, GREY, PALETTE, SKY, VERMILION, WIDTH, legend_below, percent, rate_axis, styled
from visionlora.tasks.words import in_words

if TYPE_CHECKING:
    from visionlora.tasks.task import Task
    from visionlora.training.kept import Strength


@styled
def rate_finder(rates: Sequence[float], losses: Sequence[float], chosen: float, loss: str = "loss") -> Figure:
    """The loss as the learning rate grows, with the rate chosen, where it falls fastest."""
    figure = Figure(figsize=(WIDTH / 2, 2.6))
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(chosen, color=VERMILION, linestyle="--", label=f"chosen: {chosen:.3g}")
    axes.set(xlabel="learning rate", ylabel=f"smoothed {loss}", ylim=(0.9 * min(losses), 1.2 * losses[0]))
    rate_axis(axes.xaxis)
    legend_below(figure, axes)
    return figure


@styled
def learning_curves(task: type[Task], curves: Mapping[str, tuple[list[float], list[float]]], results: Mapping[str, float | str]) -> Figure:
    """The loss and the leading measure over epochs, with the untouched backbone and the final test as lines.

    Args:
        task: of the run.
        curves: what ``read_curves`` read.
        results: of ``results.json``.
    """
    figure = Figure(figsize=(WIDTH, 3))
    lead, by = task.lead(), task.baseline_words.partition(" on ")[0]
    loss, score = figure.subplots(1, 2, sharex=True)
    if "train/loss_step" in curves:
        loss.plot(*curves["train/loss_step"], color=SKY, linewidth=0.8, label="training, steps")
    for key, name, colour in (("train/loss", "training", BLUE), ("val/loss", "validation", VERMILION)):
        if key in curves:
            loss.plot(*curves[key], "o-", label=name, color=colour)
    loss.set(xlabel="epoch", ylabel=task.loss_words)
    highest = max((max(curves[key][1]) for key in ("train/loss", "val/loss") if key in curves), default=None)
    loss.set_ylim(0, None if highest is None else 1.2 * highest)  # the first steps may be far above
    if f"val/{lead.key}" in curves:
        score.plot(*curves[f"val/{lead.key}"], "o-", label="validation", color=VERMILION)
    for key, name, style, colour in (
        (f"test_before/{lead.key}", f"test, before{f' ({by})' if by else ''}", ":", GREY),
        (f"test/{lead.key}", "test, after", "--", GREEN),
    ):
        if key in results:
            score.axhline(float(results[key]), label=f"{name}: {in_words(key, float(results[key]), task)}", color=colour, linestyle=style)
    score.set(xlabel="epoch", ylabel=lead.words, xlim=(0, None))
    if lead.share:
        percent(score.yaxis)
    score.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, loss, score, columns=2)
    return figure


@styled
def strengths(task: type[Task], strength: Strength) -> Figure:
    """The leading measure on the validation part over the share of the update that is kept, a line for each share of the trained head.

    Args:
        task: of the run.
        strength: what was tried, and what was kept.
    """
    figure = Figure(figsize=(WIDTH / 2, 3))
    axes = figure.subplots()
    lead, tried = task.lead(), strength.tried
    for number, head in enumerate(sorted({one.head for one in tried})):
        line = [(one.update, one.score) for one in tried if one.head == head]
        name = {0.0: "the probe's head", 1.0: "the trained head"}.get(head, f"{head:g} of the trained head")
        axes.plot(*zip(*line, strict=True), marker="o", markersize=3, color=PALETTE[number % len(PALETTE)], label=name)
    if strength.kept is not None:
        axes.plot(strength.kept.update, strength.kept.score, "o", markersize=9, color=BLACK, fillstyle="none", label="kept")
    axes.set(xlabel="share of the update", ylabel=f"validation {lead.words}")
    if lead.share:
        percent(axes.yaxis)
    legend_below(figure, axes, columns=2)
    return figure

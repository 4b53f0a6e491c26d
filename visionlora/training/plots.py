"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from visionlora.common.drawing import BLUE, GREEN, GREY, SKY, VERMILION, WIDTH, legend_below, percent, rate_axis, styled

if TYPE_CHECKING:
    pass


@styled
def rate_finder(rates: Sequence[float], losses: Sequence[float], chosen: float) -> Figure:
    """The loss as the learning rate grows, with the rate chosen, where it falls fastest."""
    figure = Figure(figsize=(WIDTH / 2, 2.6))
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(chosen, color=VERMILION, linestyle="--", label=f"chosen: {chosen:.3g}")
    axes.set(xlabel="learning rate", ylabel="smoothed cross-entropy", ylim=(0.9 * min(losses), 1.2 * losses[0]))
    rate_axis(axes.xaxis)
    legend_below(figure, axes)
    return figure


@styled
def learning_curves(curves: Mapping[str, tuple[list[float], list[float]]], results: Mapping[str, float | str]) -> Figure:
    """Loss and top-1 accuracy over epochs, with the untouched backbone and the final test as lines.

    Args:
        curves: what ``read_curves`` read.
        results: of ``results.json``.
    """
    figure = Figure(figsize=(WIDTH, 3))
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    if "train/loss_step" in curves:
        loss.plot(*curves["train/loss_step"], color=SKY, linewidth=0.8, label="training, steps")
    for key, name, colour in (("train/loss", "training", BLUE), ("val/loss", "validation", VERMILION)):
        if key in curves:
            loss.plot(*curves[key], "o-", label=name, color=colour)
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    highest = max((max(curves[key][1]) for key in ("train/loss", "val/loss") if key in curves), default=None)
    loss.set_ylim(0, None if highest is None else 1.2 * highest)  # the first steps may be far above
    if "val/top1" in curves:
        accuracy.plot(*curves["val/top1"], "o-", label="validation", color=VERMILION)
    for key, name, style, colour in (
        ("test_before/top1", "test, before (nearest class mean)", ":", GREY),
        ("test/top1", "test, after", "--", GREEN),
    ):
        if key in results:
            accuracy.axhline(float(results[key]), label=f"{name}: {float(results[key]):.1%}", color=colour, linestyle=style)
    accuracy.set(xlabel="epoch", ylabel="top-1 accuracy", xlim=(0, None))
    percent(accuracy.yaxis)
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, loss, accuracy, columns=2)
    return figure

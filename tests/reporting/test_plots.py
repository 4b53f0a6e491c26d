"""Images of a run: axes in words, true ticks, and nothing that leaves the image or lies over a line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from visionlora.exporting.compressing import Compressed
from visionlora.exporting.plots import compressed
from visionlora.lora.changes import LayerChange
from visionlora.reporting.plots import changes_by_layer
from visionlora.tasks.classify.task import Classify
from visionlora.training.plots import learning_curves, rate_finder


def one_epoch() -> Figure:
    """Without a validation part."""
    curves = {"train/loss_step": ([0.2, 0.6, 0.9], [3.0, 1.2, 0.8]), "train/loss": ([1.0], [1.1])}
    return learning_curves(Classify, curves, {"test_before/top1": 0.5404, "test/top1": 0.7399})


def many_epochs() -> Figure:
    epochs = [float(epoch) for epoch in range(1, 31)]
    curves = {"train/loss": (epochs, [1 / e for e in epochs]), "val/loss": (epochs, [1.1 / e for e in epochs])}
    return learning_curves(
        Classify, curves | {"val/top1": (epochs, [0.9 - 0.1 / e for e in epochs])}, {"test_before/top1": 0.5, "test/top1": 0.875}
    )


def models() -> Figure:
    names = ("float32", "int8", "pruned 30 %", "pruned 50 %", "a name that is far too long for an image")
    return compressed([Compressed(name, Classify.lead(), 0.86, 0.85, 0.87, 13_670_000, 12_510_000, 2.5, 50.0) for name in names])


def rates() -> Figure:
    found = np.logspace(-6, 0, 50)
    return rate_finder(found.tolist(), (2.4 - 1.5 / (1 + 0.003 / found)).tolist(), 1e-3)


def layers() -> Figure:
    return changes_by_layer([LayerChange(f"stages.{i}.blocks.{i}.conv_dw.a_long_name", 0.0025 * i, 1.0 + i, 8) for i in range(8)])


@pytest.mark.parametrize("draw", [one_epoch, many_epochs, models, rates, layers])
def test_nothing_leaves_the_picture(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.draw_without_rendering()
    (legend,), drawn, (width, height) = figure.legends, figure.get_tightbbox(), figure.get_size_inches()
    assert -0.02 <= drawn.x0 <= drawn.x1 <= width + 0.02
    assert -0.02 <= drawn.y0 <= drawn.y1 <= height + 0.02
    for axes in figure.axes:
        assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
        assert axes.get_xlabel() or axes.get_ylabel()
        assert "/" not in axes.get_xlabel().replace("‖ΔW‖ / ‖W‖", "")  # words, no keys
        assert "/" not in axes.get_ylabel()


@pytest.mark.parametrize("draw", [one_epoch, many_epochs])
def test_epochs_are_whole(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert all(tick.get_text().isdecimal() for tick in axes.get_xticklabels())
        assert axes.get_xlim()[0] == 0


def test_the_rank_of_every_layer_is_seen() -> None:
    figure = layers()
    _, directions = figure.axes
    strokes = next(line for line in directions.lines if line.get_label() == "rank of the adapter")
    assert set(np.asarray(strokes.get_xdata()).tolist()) == {8}
    assert directions.get_xlim()[0] == 0
    assert directions.get_xlim()[1] > 8

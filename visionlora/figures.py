"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.files import inside, save_figure
from visionlora.run_folder import RunFolder
from visionlora.runs.log import read_curves

if TYPE_CHECKING:
    from visionlora.exporting.compressing import Compressed


def compressed(rows: Sequence[Compressed], path: Path) -> None:
    """``compress.png``: accuracy with its interval, bytes and latency of each model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    accuracy, size, latency = figure.subplots(1, 3)
    places, names = range(len(rows)), [row.name for row in rows]
    errors = [[row.top1 - row.low for row in rows], [row.high - row.top1 for row in rows]]
    accuracy.errorbar(places, [row.top1 for row in rows], yerr=errors, fmt="o", capsize=3, color="tab:blue")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    accuracy.set_title("top-1, 95 % interval", loc="left")
    size.bar([i - 0.2 for i in places], [row.bytes / 1e6 for row in rows], 0.4, label="file", color="tab:blue")
    size.bar([i + 0.2 for i in places], [row.zipped / 1e6 for row in rows], 0.4, label="zipped", color="tab:cyan")
    size.set_title("MB", loc="left")
    latency.bar([i - 0.2 for i in places], [row.ms_1 for row in rows], 0.4, label="1 picture", color="tab:blue")
    latency.bar([i + 0.2 for i in places], [row.ms_32 / 32 for row in rows], 0.4, label="of 32, each", color="tab:cyan")
    latency.set_title("ms a picture", loc="left")
    for axes in (size, latency):
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    for axes in (accuracy, size, latency):
        axes.set_xticks(places, names, rotation=20, fontsize=8)
        axes.grid(alpha=0.3, axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, ncols=2)
    save_figure(figure, path)


def rate_finder(run: RunFolder, rates: list[float], losses: list[float], chosen: float) -> None:
    """``lr_find.png``: the loss as the learning rate grows, with the rate chosen, where it falls fastest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="tab:blue")
    axes.axvline(chosen, color="tab:orange", linestyle="--", label=f"optim.lr={chosen:.3g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed cross-entropy", title="Learning-rate finder")
    axes.set_ylim(0.9 * min(losses), 1.2 * losses[0])
    axes.legend(frameon=False)
    save_figure(figure, inside(run.path, run.rates.name))


def learning_curves(run: RunFolder, results: dict[str, float | str]) -> None:
    """``curves.png``: loss and top-1 accuracy over epochs, with the untouched backbone and the final test as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    curves = read_curves(run.metrics)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    if "train/loss_step" in curves:
        loss.plot(*curves["train/loss_step"], color="tab:blue", alpha=0.25, linewidth=1)
    for key, label, colour in (("train/loss", "train", "tab:blue"), ("val/loss", "validation", "tab:orange")):
        if key in curves:
            loss.plot(*curves[key], "o-", label=label, color=colour)
    loss.set(xlabel="epoch", ylabel="cross-entropy", title="Loss")
    highest = max((max(curves[key][1]) for key in ("train/loss", "val/loss") if key in curves), default=None)
    loss.set_ylim(0, None if highest is None else 1.2 * highest)  # the first steps may be far above
    if "val/top1" in curves:
        accuracy.plot(*curves["val/top1"], "o-", label="validation", color="tab:orange")
    for key, label, style in (("test_before/top1", "test, before (nearest class mean)", ":"), ("test/top1", "test, after", "--")):
        if key in results:
            accuracy.axhline(float(results[key]), label=f"{label}: {float(results[key]):.1%}", color="tab:green", linestyle=style)
    accuracy.set(xlabel="epoch", title="Top-1 accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    accuracy.set_xlim(loss.get_xlim())
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    save_figure(figure, inside(run.path, run.curves.name))

"""Pictures of a run."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from visionlora.run_folder import RunFolder


def read_metrics(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """``metrics.csv`` as metric -> (epochs, values); epochs count finished ones, steps inside an epoch are fractions."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    last_step = {int(float(row["epoch"])): int(row["step"]) for row in rows if row.get("epoch")}
    per_epoch = max((step + 1) / (epoch + 1) for epoch, step in last_step.items()) if last_step else 1
    curves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row in rows:
        for key, value in row.items():
            if value and key not in ("epoch", "step"):
                curves[key][0].append((int(row["step"]) + 1) / per_epoch)
                curves[key][1].append(float(value))
    return dict(curves)


def learning_curves(run: RunFolder, results: dict[str, float | str]) -> None:
    """``curves.png``: loss and top-1 accuracy over epochs, with the untouched backbone and the final test as lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    curves = read_metrics(run.metrics)
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    if "train/loss_step" in curves:
        loss.plot(*curves["train/loss_step"], color="tab:blue", alpha=0.25, linewidth=1)
    for key, label, colour in (("train/loss", "train", "tab:blue"), ("val/loss", "validation", "tab:orange")):
        if key in curves:
            loss.plot(*curves[key], "o-", label=label, color=colour)
    loss.set(xlabel="epoch", ylabel="cross-entropy", title="Loss")
    loss.set_ylim(bottom=0)
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
    part = run.curves.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    plt.close(figure)
    part.replace(run.curves)

"""What a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionlora.lora.injection import InjectReport, LayerReport

if TYPE_CHECKING:
    from visionlora.predictor import Prediction

console = Console()


def print_trained(report: InjectReport, backbone: str) -> None:
    """What is trained, block by block: layers, ranks, parameters, share of the model."""
    table = Table(title=f"What is trained of {backbone}", title_justify="left")
    for column, justify in (("block", "left"), ("layers", "right"), ("rank", "right"), ("parameters", "right"), ("% of model", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    blocks: dict[str, list[LayerReport]] = {}
    for layer in report.layers:
        blocks.setdefault(_block(layer.name), []).append(layer)
    for block, layers in blocks.items():
        ranks = sorted({layer.r for layer in layers})
        rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
        _row(table, block, str(len(layers)), rank, sum(layer.parameters for layer in layers), report.total)
    rest = report.trainable - report.adapter_parameters
    if rest:
        _row(table, "trained whole (head)" if report.layers else "trained whole", "", "", rest, report.total)
    table.add_section()
    _row(table, "all", str(len(report.layers)), "", report.trainable, report.total)
    console.print(table)
    if report.capped:
        first = report.capped[0]
        console.print(f"{len(report.capped)} small layers got a lower rank than asked, {first.name} (r={first.r}) for one.")
    if report.left_out:
        console.print(f"{len(report.left_out)} layers got none: it would have more parameters than they, {report.left_out[0]} for one.")


def print_profile(seconds: Mapping[str, float]) -> None:
    """Where the time of ``fit`` went."""
    table = Table(title="Where the time went", title_justify="left")
    for column in ("", "seconds", "share"):
        table.add_column(column, justify="left" if not column else "right")
    total = max(sum(seconds.values()), 1e-9)
    for what, spent in seconds.items():
        table.add_row(what, f"{spent:.2f}", f"{spent / total:.1%}")
    console.print(table)


def print_results(results: Mapping[str, Any], folder: Path) -> None:
    """The figures of a finished run."""
    table = Table(title="Results", title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for key, label in (("top1", "top-1"), ("top5", "top-5"), ("f1", "macro F1"), ("loss", "loss")):
        if f"test/{key}" in results:
            before, after = results.get(f"test_before/{key}"), results[f"test/{key}"]
            shape = "{:.3f}" if key == "loss" else "{:.1%}"
            table.add_row(label, "" if before is None else shape.format(before), shape.format(after))
    console.print(table)
    trained = f"{results['params/trainable']:,} of {results['params/total']:,} parameters trained"
    waiting = results["seconds/waiting"] / max(results["seconds/fit"], 1e-9)
    speed = f"{results['seconds/fit']:.0f} s, {results['images_per_second']:,.0f} images/s, {waiting:.0%} of it waiting for data"
    sizes = f"adapter {results['bytes/adapter'] / 1e6:.2f} MB; peak memory {results['memory/peak_mib']:,.0f} MiB"
    console.print(f"{trained}; {sizes}; {speed}", highlight=False)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True, markup=False)


def print_metrics(metrics: Mapping[str, float], title: str) -> None:
    """One figure a row."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        table.add_row(key, f"{value:.4f}")
    console.print(table)


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """One picture a row."""
    table = Table()
    for column in ("picture", "class", "probability"):
        table.add_column(column)
    for p in predictions:
        if p.error:
            table.add_row(escape(p.path), "[red]unreadable[/red]", "")
        else:
            table.add_row(escape(p.path), escape("\n".join(p.labels)), "\n".join(f"{x:.1%}" for x in p.probabilities))
    console.print(table)


def _block(name: str) -> str:
    parts = name.split(".")
    depth = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 1)
    return ".".join(parts[:depth])


def _row(table: Table, name: str, layers: str, rank: str, parameters: int, total: int) -> None:
    table.add_row(name, layers, rank, f"{parameters:,}", f"{100 * parameters / total:.2f}")

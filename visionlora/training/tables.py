"""What a run prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from rich.table import Table

from visionlora.common.console import LOG, console
from visionlora.common.text import counted
from visionlora.tasks.words import PARTS, in_words, label

if TYPE_CHECKING:
    from visionlora.data.module import ImageData
    from visionlora.lora.inject_report import InjectReport, LayerReport
    from visionlora.tasks.task import Task


def print_beginning(data: ImageData, made_with: Mapping[str, Any], resuming: bool) -> None:
    """Print how many images there are; the log alone is told the command and the versions too."""
    if HydraConfig.initialized():
        job = HydraConfig.get()
        LOG.info("python -m visionlora.%s %s", job.job.name, " ".join(map(shlex.quote, job.overrides.task)))
    versions = {key.partition("/")[2]: value for key, value in made_with.items() if key.startswith(("versions/", "machine/"))}
    LOG.info("%s", ", ".join(f"{name} {value}" for name, value in versions.items()))
    if resuming:
        LOG.info("goes on from a checkpoint")
    sizes = ", ".join(f"{len(pictures):,} for {PARTS[part]}" for part, pictures in data.parts.items())
    console.print(f"images: {sizes}; {counted(data.task.outputs, *data.task.output_words)}", highlight=False)
    leading, counts = data.task.leading(), data.task.counts
    if leading != data.task.lead() and counts:
        sizes = f"The {data.task.output_words[1]} have {min(counts):,} to {max(counts):,} training images"
        console.print(
            f"{sizes}: {leading.words} chooses the best epoch, and data.balance=logit_adjustment may help the small ones.", highlight=False
        )


def print_trained(report: InjectReport, backbone: str, note: str = "") -> None:
    """What is trained, block by block: layers, ranks, parameters, share of the model; and what speed-up was left out."""
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
    if note:
        console.print(f"A speed-up does not hold: {note}. The run is right without it, and slower.", markup=False)


def print_profile(seconds: Mapping[str, float]) -> None:
    """Print where the time of ``fit`` went."""
    table = Table(title="Where the time went", title_justify="left")
    for column in ("", "seconds", "share"):
        table.add_column(column, justify="left" if not column else "right")
    total = max(sum(seconds.values()), 1e-9)
    for what, spent in seconds.items():
        table.add_row(what, f"{spent:.2f}", f"{spent / total:.1%}")
    console.print(table)


def print_results(task: type[Task], results: Mapping[str, Any], conclusion: str, folder: Path) -> None:
    """The metrics of a finished run, and what they amount to."""
    part = "test" if f"test/{task.lead().key}" in results else "val"  # without a test, what is known
    table = Table(title="Results", title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for key in (measure.key for measure in task.every_measure()):
        if (after := results.get(f"{part}/{key}")) is not None:
            before = results.get(f"{part}_before/{key}")
            words = "" if before is None else in_words(key, before, task)
            table.add_row(label(f"{part}/{key}", task), words, in_words(key, after, task))
    if table.rows:
        console.print(table)
    trained = f"{results['params/trainable']:,} of {results['params/total']:,} parameters trained"
    waiting = results["seconds/waiting"] / max(results["seconds/fit"], 1e-9)
    speed = f"{results['seconds/fit']:.0f} s, {results['images_per_second']:,.0f} images/s, {waiting:.0%} of it waiting for data"
    sizes = f"adapter {results['bytes/adapter'] / 1e6:.2f} MB; peak memory {results['memory/peak_mib']:,.0f} MiB"
    console.print(f"{trained}; {sizes}; {speed}", highlight=False)
    console.print(conclusion, highlight=False, soft_wrap=True, markup=False)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True, markup=False)


def _block(name: str) -> str:
    parts = name.split(".")
    depth = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 1)
    return ".".join(parts[:depth])


def _row(table: Table, name: str, layers: str, rank: str, parameters: int, total: int) -> None:
    table.add_row(name, layers, rank, f"{parameters:,}", f"{100 * parameters / total:.2f}")

"""What a run prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from rich.markup import escape
from rich.table import Table

from visionlora.common.console import LOG, console
from visionlora.common.labels import PARTS, in_words, label
from visionlora.common.text import counted

if TYPE_CHECKING:
    from optuna import Study

    from visionlora.data.pictures import Pictures, Unreadable
    from visionlora.evaluation.measure import Compared
    from visionlora.evaluation.outcome import Outcome
    from visionlora.exporting.compressing import Compressed
    from visionlora.exporting.writing import Exported
    from visionlora.lora.injection import InjectReport, LayerReport
    from visionlora.predictor import Prediction
    from visionlora.reporting.runs import Configuration
    from visionlora.run_folder import RunFolder


def print_beginning(parts: Mapping[str, Pictures], classes: int, made_with: Mapping[str, Any], resuming: bool) -> None:
    """Of what data; and, in the log alone, by which command and with which versions."""
    if HydraConfig.initialized():
        job = HydraConfig.get()
        LOG.info("python -m visionlora.%s %s", job.job.name, " ".join(map(shlex.quote, job.overrides.task)))
    versions = {key.partition("/")[2]: value for key, value in made_with.items() if key.startswith(("versions/", "machine/"))}
    LOG.info("%s", ", ".join(f"{name} {value}" for name, value in versions.items()))
    if resuming:
        LOG.info("goes on from a checkpoint")
    sizes = ", ".join(f"{len(pictures):,} for {PARTS[part]}" for part, pictures in parts.items())
    console.print(f"images: {sizes}; {counted(classes, 'class', 'classes')}", highlight=False)


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
    """Where the time of ``fit`` went."""
    table = Table(title="Where the time went", title_justify="left")
    for column in ("", "seconds", "share"):
        table.add_column(column, justify="left" if not column else "right")
    total = max(sum(seconds.values()), 1e-9)
    for what, spent in seconds.items():
        table.add_row(what, f"{spent:.2f}", f"{spent / total:.1%}")
    console.print(table)


def print_results(results: Mapping[str, Any], conclusion: str, folder: Path) -> None:
    """The figures of a finished run, and what they amount to."""
    table = Table(title="Results", title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for key in ("top1", "top5", "f1", "loss"):
        if (after := results.get(f"test/{key}")) is not None:
            before = results.get(f"test_before/{key}")
            table.add_row(label(f"test/{key}"), "" if before is None else in_words(key, before), in_words(key, after))
    console.print(table)
    trained = f"{results['params/trainable']:,} of {results['params/total']:,} parameters trained"
    waiting = results["seconds/waiting"] / max(results["seconds/fit"], 1e-9)
    speed = f"{results['seconds/fit']:.0f} s, {results['images_per_second']:,.0f} images/s, {waiting:.0%} of it waiting for data"
    sizes = f"adapter {results['bytes/adapter'] / 1e6:.2f} MB; peak memory {results['memory/peak_mib']:,.0f} MiB"
    console.print(f"{trained}; {sizes}; {speed}", highlight=False)
    console.print(conclusion, highlight=False, soft_wrap=True, markup=False)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True, markup=False)


def print_sweep(runs: Sequence[RunFolder], folder: Path) -> None:
    """What became of each run of a sweep, and how to read it."""
    table = Table(title="The sweep", title_justify="left")
    for column in ("run", "validation", "test", "parameters", "seconds"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for run in runs:
        if not run.finished:
            table.add_row(escape(run.path.name), "[red]broke[/red]" if run.broke else "[yellow]not finished[/yellow]")
            continue
        found = run.read_results()
        scores = [f"{found[key]:.1%}" if found.get(key) is not None else "" for key in ("val/top1", "test/top1")]
        costs = [f"{found[key]:,.0f}" if found.get(key) is not None else "" for key in ("params/trainable", "seconds/fit")]
        table.add_row(escape(run.path.name), *scores, *costs)
    console.print(table)
    broken = [run for run in runs if run.broke]
    for run in broken:
        console.print(
            f"{run.path.name} broke: {run.error.read_text(errors='replace').strip()}", highlight=False, soft_wrap=True, markup=False
        )
    if broken:
        again = f"{len(broken)} of {len(runs)} broke; the same command with hydra.sweep.dir={folder} tries them again."
        console.print(again, highlight=False, soft_wrap=True, markup=False)
    console.print(f"python -m visionlora.report runs={folder}", highlight=False, soft_wrap=True, markup=False)


def print_exports(written: Sequence[Exported]) -> None:
    """One export a row."""
    table = Table(title=f"Compared on {written[0].pictures}", title_justify="left")
    for column in ("format", "MB", "largest difference", "folder"):
        table.add_column(column, justify="left" if column in ("format", "folder") else "right", overflow="fold")
    for one in written:
        table.add_row(one.format, f"{one.bytes / 1e6:.2f}", f"{one.difference:.1e}", escape(str(one.folder)))
    console.print(table)


def print_compressed(rows: Sequence[Compressed]) -> None:
    """One model a row; the first is what the others are compared with."""
    table = Table(title="In onnxruntime", title_justify="left")
    for column in ("", "top-1", "95 %", "MB", "zipped MB", "ms, 1", "ms, 32"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        sizes = [f"{row.bytes / 1e6:.2f} ({row.bytes / rows[0].bytes:.2f} ×)", f"{row.zipped / 1e6:.2f}"]
        table.add_row(row.name, f"{row.top1:.1%}", f"{row.low:.1%}–{row.high:.1%}", *sizes, f"{row.ms_1:.1f}", f"{row.ms_32:.0f}")
    console.print(table)


def print_search(study: Study, metric: str, command: str, folder: Path) -> None:
    """The ten best trials, what mattered, and the command of the best."""
    ended = [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    keys = list(study.best_params)
    pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
    table = Table(title=f"{len(ended)} trials ended, {pruned} were cut short", title_justify="left")
    for column in ("trial", *keys, metric):
        table.add_column(column, justify="right", overflow="fold")
    for trial in sorted(ended, key=lambda trial: sign * (trial.value or 0.0))[:10]:
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in (trial.params.get(key, "") for key in keys)]
        table.add_row(str(trial.number), *map(escape, values), f"{trial.value:.4f}")
    console.print(table)
    console.print(f"the best: {command}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"python -m visionlora.report runs={folder}", highlight=False, soft_wrap=True, markup=False)


def print_ranking(ranked: Sequence[Configuration], metric: str, command: str, top: int) -> None:
    """The configurations, the best first, and the command that trains the best one again."""
    from visionlora.reporting.runs import spread_in_words

    table = Table(title=f"{sum(len(c.runs) for c in ranked)} runs by {metric}", title_justify="left")
    for column in ("", "configuration", "seeds", "validation", "test", "parameters", "seconds"):
        table.add_column(column, justify="left" if column == "configuration" else "right", overflow="fold")
    for number, c in enumerate(ranked[:top], 1):
        scores = [str(c.summary(key) or "") for key in ("val/top1", "test/top1")]
        parameters, seconds = c.summary("params/trainable"), c.summary("seconds/fit")
        costs = [f"{parameters.mean:,.0f}" if parameters else "", f"{seconds.mean:.1f}" if seconds else ""]
        table.add_row(str(number), escape(c.name), str(len(c.runs)), *scores, *costs)
    console.print(table)
    for sentence in spread_in_words(ranked):
        console.print(sentence, highlight=False)
    if len(ranked) > top:
        console.print(f"and {len(ranked) - top} more (top={len(ranked)} prints all)", highlight=False)
    from visionlora.reporting.runs import made_differently  # not above: it reads the files of many runs, and most commands look at one

    if differs := made_differently([run for c in ranked for run in c.runs]):
        console.print(differs, highlight=False, soft_wrap=True, markup=False)
    console.print(f"the best: {command}", highlight=False, soft_wrap=True, markup=False)


def print_metrics(metrics: Mapping[str, float], title: str) -> None:
    """One figure a row, written as ``print_results`` writes it."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        table.add_row(label(key), in_words(key, value))
    console.print(table)


def say_left_out(unreadable: Unreadable) -> None:
    """How many pictures could not be read, and the first of them."""
    from visionlora.data.pictures import left_out

    if unreadable:
        said = f"left out, as they cannot be read, were {len(unreadable)}: {left_out(unreadable)}"
        console.print(said, highlight=False, soft_wrap=True, markup=False)


WORST = 10
"""Classes shown where there are more than thirty: those with the lowest F1."""


def print_classes(outcome: Outcome) -> None:
    """Precision, recall, F1 and support of each class, and the pairs confused most."""
    report = outcome.report()
    classes = outcome.classes if len(outcome.classes) <= 30 else sorted(outcome.classes, key=lambda c: report[c]["f1-score"])[:WORST]
    title = "Classes" if len(classes) == len(outcome.classes) else f"The {WORST} classes with the lowest F1"
    table = Table(title=title, title_justify="left")
    for column in ("class", "precision", "recall", "F1", "pictures"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name in [*classes, "macro avg", "weighted avg"]:
        row = report[name]
        if name == "macro avg":
            table.add_section()
        table.add_row(escape(name), *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1-score")), f"{row['support']:.0f}")
    console.print(table)
    pairs = [f"{outcome.classes[true]} taken for {outcome.classes[taken]} ({n})" for true, taken, n in outcome.confused()]
    if pairs:
        console.print(f"confused most: {'; '.join(pairs)}", highlight=False, markup=False)


def print_comparison(rows: Sequence[Compared]) -> None:
    """A column for each model, all on the same pictures."""
    split = rows[0].outcome.split
    table = Table(title=f"On the same {len(rows[0].outcome.labels):,} pictures ({split})", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(escape(row.name), justify="right", overflow="fold")
    metrics = [row.outcome.metrics() for row in rows]
    lines = {
        "top-1": [f"{m[f'{split}/top1']:.1%}" for m in metrics],
        "95 % interval": [f"{m[f'{split}/top1_low']:.1%}–{m[f'{split}/top1_high']:.1%}" for m in metrics],
        "macro F1": [f"{m[f'{split}/f1']:.1%}" for m in metrics],
        "p against the first": ["" if row.p is None else f"{row.p:.2g}" for row in rows],
        "trained parameters": [f"{row.trainable:,}" for row in rows],
        "adapter, MB": [f"{row.adapter_bytes / 1e6:.2f}" for row in rows],
        "model, MB": [f"{row.model_bytes / 1e6:.1f}" for row in rows],
        "seconds of training": ["" if row.fit_seconds is None else f"{row.fit_seconds:.0f}" for row in rows],
        "images/s, here": [f"{row.images_per_second:,.0f}" for row in rows],
        "peak in training, MiB": ["" if row.memory_mib is None else f"{row.memory_mib:,.0f}" for row in rows],
    }
    for heading, cells in lines.items():
        table.add_row(heading, *cells)
    console.print(table)
    console.print("The interval is a bootstrap over the pictures, p an exact McNemar test.", highlight=False)


def print_predictions(predictions: Sequence[Prediction], runs: Sequence[str] | None = None) -> None:
    """One picture a row; ``runs`` says by which run, where there are several."""
    table = Table()
    for column in (*(["run"] if runs else []), "picture", "class", "probability"):
        table.add_column(column)
    for number, p in enumerate(predictions):
        cells = [escape(p.path), "[red]unreadable[/red]", ""]
        if not p.error:
            cells = [escape(p.path), escape("\n".join(p.labels)), "\n".join(f"{x:.1%}" for x in p.probabilities)]
        table.add_row(*([escape(runs[number])] if runs else []), *cells)
    console.print(table)


def _block(name: str) -> str:
    parts = name.split(".")
    depth = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 1)
    return ".".join(parts[:depth])


def _row(table: Table, name: str, layers: str, rank: str, parameters: int, total: int) -> None:
    table.add_row(name, layers, rank, f"{parameters:,}", f"{100 * parameters / total:.2f}")

"""What sweeps, searches and reports print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console
from visionlora.tasks.registry import kind_of
from visionlora.tasks.words import in_words

if TYPE_CHECKING:
    from optuna import Study

    from visionlora.reporting.runs import Configuration
    from visionlora.runs.folder import RunFolder


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
        task = kind_of(found.get("task"))
        keys = [f"{part}/{task.lead().key}" for part in ("val", "test")]
        scores = [in_words(key, found[key], task) if found.get(key) is not None else "" for key in keys]
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
    from visionlora.reporting.runs import leading, spread_in_words, written

    table = Table(title=f"{sum(len(c.runs) for c in ranked)} runs by {metric}", title_justify="left")
    for column in ("", "configuration", "seeds", "validation", "test", "parameters", "seconds"):
        table.add_column(column, justify="left" if column == "configuration" else "right", overflow="fold")
    for number, c in enumerate(ranked[:top], 1):
        scores = [written(c.summary(key), key, c.task) for key in (leading([c], part) for part in ("val", "test"))]
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

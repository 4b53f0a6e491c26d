"""What an evaluation prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console
from visionlora.tasks.words import in_words, label

if TYPE_CHECKING:
    from visionlora.evaluation.measure import Compared
    from visionlora.tasks.interfaces import Outcome
    from visionlora.tasks.task import Task


def print_metrics(metrics: Mapping[str, float], title: str, task: type[Task]) -> None:
    """One metric a row, written as ``print_results`` writes it."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        table.add_row(label(key, task), in_words(key, value, task))
    console.print(table)


def say_left_out(unreadable: Mapping[str, str]) -> None:
    """Print how many images could not be read, and which ones were the first."""
    from visionlora.data.images import left_out

    if unreadable:
        said = f"left out, as they cannot be read, were {len(unreadable)}: {left_out(unreadable)}"
        console.print(said, highlight=False, soft_wrap=True, markup=False)


def print_comparison(rows: Sequence[Compared]) -> None:
    """A column for each model, all on the same images."""
    split, task = rows[0].outcome.split, type(rows[0].outcome.task)
    table = Table(title=f"On the same {len(rows[0].outcome.targets):,} images ({split})", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(escape(row.name), justify="right", overflow="fold")
    metrics = [row.outcome.metrics() for row in rows]
    lines: dict[str, list[str]] = {}
    for measure in task.every_measure():
        if measure.spread and f"{split}/{measure.key}" in metrics[0]:
            lines[measure.short or measure.words] = [in_words(measure.key, m[f"{split}/{measure.key}"], task) for m in metrics]
        if measure == task.lead() and all(row.outcome.interval() for row in rows):
            lines["95 % interval"] = [_interval(row.outcome) for row in rows]
    lines |= {
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
    if rows[0].outcome.tests:
        console.print(rows[0].outcome.tests, highlight=False)


def _interval(outcome: Outcome) -> str:
    low, high = outcome.interval() or (0.0, 0.0)
    lead = outcome.task.lead().key
    return f"{in_words(lead, low, type(outcome.task))}–{in_words(lead, high, type(outcome.task))}"


def say_what_views_are_worth(plain: Outcome, found: Outcome, kind: str) -> None:
    """Print what averaging over views changes of the leading measure, and what it costs."""
    lead = found.task.lead()
    key, task = f"{found.split}/{lead.key}", type(found.task)
    before, after, times = plain.metrics().get(key), found.metrics().get(key), found.seconds / max(plain.seconds, 1e-9)
    if before is None or after is None:
        return
    p = plain.p_against(found)
    chance = f", p={p:.2g}" if p is not None else ""
    scores = f"{lead.words} {in_words(lead.key, after, task)}, {in_words(lead.key, before, task)} without it{chance}"
    console.print(f"tta={kind}: {scores}; {times:.1f} times the time.", highlight=False)

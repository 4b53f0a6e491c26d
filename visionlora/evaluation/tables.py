"""What an evaluation prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console
from visionlora.common.labels import in_words, label

if TYPE_CHECKING:
    from visionlora.data.images import Unreadable
    from visionlora.evaluation.measure import Compared
    from visionlora.evaluation.outcome import Outcome


def print_metrics(metrics: Mapping[str, float], title: str) -> None:
    """One figure a row, written as ``print_results`` writes it."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        table.add_row(label(key), in_words(key, value))
    console.print(table)


def say_left_out(unreadable: Unreadable) -> None:
    """Print how many images could not be read, and which ones were the first."""
    from visionlora.data.images import left_out

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

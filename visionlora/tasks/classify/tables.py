"""What is printed of a classifier's evaluation beside its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console

if TYPE_CHECKING:
    from visionlora.tasks.classify.classified import Classified

WORST = 10
"""Classes shown where there are more than thirty: those with the lowest F1."""


def print_classes(outcome: Classified) -> None:
    """Precision, recall, F1 and support of each class, and the pairs confused most."""
    report = outcome.report()
    classes = outcome.classes if len(outcome.classes) <= 30 else sorted(outcome.classes, key=lambda c: report[c]["f1-score"])[:WORST]
    title = "Classes" if len(classes) == len(outcome.classes) else f"The {WORST} classes with the lowest F1"
    table = Table(title=title, title_justify="left")
    for column in ("class", "precision", "recall", "F1", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    there = [report[name] for name in outcome.classes if report[name]["support"]]
    mean = {key: sum(row[key] for row in there) / max(len(there), 1) for key in ("precision", "recall", "f1-score")}
    rows = report | {"macro avg": mean | {"support": report["macro avg"]["support"]}}  # of the classes that there are images of
    for name in [*classes, "macro avg", "weighted avg"]:
        row = rows[name]
        if name == "macro avg":
            table.add_section()
        shares = (f"{row[key]:.1%}" if row["support"] else "-" for key in ("precision", "recall", "f1-score"))
        table.add_row(escape(name), *shares, f"{row['support']:.0f}")
    console.print(table)
    if levels := outcome.levels():
        shares = (f"{level['top1']:.1%} of {level['classes']:.0f}" for level in levels)
        console.print(f"top-1 accuracy by level, from the widest: {', '.join(shares)} classes", highlight=False, markup=False)
    pairs = [f"{outcome.classes[true]} taken for {outcome.classes[taken]} ({n})" for true, taken, n in outcome.confused()]
    if pairs:
        console.print(f"confused most: {'; '.join(pairs)}", highlight=False, markup=False)

"""What predictions print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console

if TYPE_CHECKING:
    from visionlora.tasks.interfaces import Prediction


def print_predictions(predictions: Sequence[Prediction], columns: Sequence[str], runs: Sequence[str] | None = None) -> None:
    """One image a row, with the task's ``columns``; ``runs`` says by which run, where there are several."""
    table = Table()
    for column in (*(["run"] if runs else []), "image", *columns):
        table.add_column(column)
    for number, p in enumerate(predictions):
        cells = ["[red]unreadable[/red]"] if p.error else map(escape, p.cells())
        table.add_row(*([escape(runs[number])] if runs else []), escape(p.path), *cells)
    console.print(table)

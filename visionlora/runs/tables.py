"""What predictions print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console

if TYPE_CHECKING:
    from visionlora.runs.predictor import Prediction


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

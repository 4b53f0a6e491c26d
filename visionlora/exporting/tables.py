"""What exports and compressed models print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console

if TYPE_CHECKING:
    from visionlora.exporting.compressing import Compressed
    from visionlora.exporting.writing import Exported


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
    measure = rows[0].measure
    format_ = "{:.1%}".format if measure.share else "{:.3f}".format
    for column in ("", measure.short or measure.words, "95 %", "MB", "zipped MB", "ms, 1", "ms, 32"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        sizes = [f"{row.bytes / 1e6:.2f} ({row.bytes / rows[0].bytes:.2f} ×)", f"{row.zipped / 1e6:.2f}"]
        score, *bounds = ("" if value is None else format_(value) for value in (row.score, row.low, row.high))
        table.add_row(row.name, score, "–".join(filter(None, bounds)), *sizes, f"{row.ms_1:.1f}", f"{row.ms_32:.0f}")
    console.print(table)

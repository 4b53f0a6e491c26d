"""Labels as they stand in a table, which a task reads. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visionlora.common.errors import UserError


@dataclass(frozen=True)
class Cells:
    """The label cells of every row, as text.

    Args:
        file: that they were read from, for sentences.
        columns: headings of the cells of a row.
        parts: by part of the data, a tuple of cells for each row, one for each of ``columns``.
        lines: by part, the line of the file that each row is in.
        separator: between the labels of a cell that holds several.
    """

    file: str
    columns: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, ...]]]
    lines: Mapping[str, Sequence[int]]
    separator: str = "|"

    def where(self, part: str, row: int, column: int = 0) -> str:
        """A cell in words: ``labels.csv, line 12, column 'label'``."""
        return f"{self.file}, line {self.lines[part][row]}, column {self.columns[column]!r}"

    def refuse(self, part: str, row: int, column: int, why: str, hint: str = "") -> UserError:
        """The error that a cell is wrong, for ``raise``; ``hint`` is a sentence after it."""
        return UserError(f"{self.where(part, row, column)}: {why}.{hint}")

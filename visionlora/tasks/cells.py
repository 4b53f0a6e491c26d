"""Labels as they stand in a table, which a task reads. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        place: of a row in words, with ``{line}`` and ``{part}``.
        order: of names of classes, where the source has one; those that it does not name come after them.
    """

    file: str
    columns: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, ...]]]
    lines: Mapping[str, Sequence[int]]
    separator: str = "|"
    place: str = "line {line}"
    order: tuple[str, ...] = ()

    def sorted(self, names: Iterable[str]) -> list[str]:
        """Names of classes in their order: that of the source, else of the alphabet."""
        rank = {name: place for place, name in enumerate(self.order)}
        return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))

    def where(self, part: str, row: int, column: int = 0) -> str:
        """A cell in words: ``labels.csv, line 12, column 'label'``."""
        return f"{self.file}, {self.place.format(line=self.lines[part][row], part=part)}, column {self.columns[column]!r}"

    def refuse(self, part: str, row: int, column: int, why: str, hint: str = "") -> UserError:
        """The error that a cell is wrong, for ``raise``; ``hint`` is a sentence after it."""
        return UserError(f"{self.where(part, row, column)}: {why}.{hint}")

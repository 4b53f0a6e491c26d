"""The numbers that a model gives for one image. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Numbers:
    """A number for each output, in the user's units; ``error`` says why there are none.

    Args:
        path: of the image.
        names: of the outputs.
        values: for each.
        error: why the image cannot be read.
    """

    path: str
    names: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    error: str = ""

    def row(self, most: int) -> dict[str, Any]:
        """The numbers, each under its name."""
        return dict(zip(self.names, self.values or (None,) * len(self.names), strict=True))

    def cells(self) -> tuple[str, ...]:
        """The numbers and their names, a line each."""
        return (self.brief().replace(", ", "\n"),)

    def brief(self) -> str:
        """The numbers in a few words."""
        return self.error or ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, self.values, strict=True))

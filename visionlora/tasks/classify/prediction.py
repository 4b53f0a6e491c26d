"""What a classifier says of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """One image's classes, the likeliest first; ``error`` says why there are none.

    Args:
        path: of the image.
        labels: names of the classes, as many as were asked for.
        probabilities: of each of them.
        error: why the image cannot be read.
    """

    path: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""

    def row(self, most: int) -> dict[str, Any]:
        """``class1``, ``probability1`` and so on, up to ``most``; empty beyond those that there are."""
        found: dict[str, Any] = {}
        for k in range(most):
            there = k < len(self.labels)
            found[f"class{k + 1}"] = self.labels[k] if there else None
            found[f"probability{k + 1}"] = round(self.probabilities[k], 6) if there else None
        return found

    def cells(self) -> tuple[str, ...]:
        """The classes and their probabilities, a line each."""
        return "\n".join(self.labels), "\n".join(f"{x:.1%}" for x in self.probabilities)

    def brief(self) -> str:
        """The likeliest class and its probability."""
        return f"{self.labels[0]} {self.probabilities[0]:.0%}" if self.labels else self.error

"""What a model says of one image's labels. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Labelled:
    """The probability of each label, and which are given; ``error`` says why there is neither.

    Args:
        path: of the image.
        names: of all labels.
        probabilities: of each.
        there: which are above their threshold.
        error: why the image cannot be read.
    """

    path: str
    names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    there: tuple[bool, ...] = ()
    error: str = ""

    @property
    def labels(self) -> list[str]:
        """The labels that are given, the likeliest first."""
        return [name for name, _ in self._given()]

    def _given(self) -> list[tuple[str, float]]:
        found = [(name, p) for name, p, there in zip(self.names, self.probabilities, self.there, strict=False) if there]
        return sorted(found, key=lambda one: -one[1])

    def row(self, most: int) -> dict[str, Any]:
        """``labels``, with ``|`` between them, and ``probability of LABEL`` for each label."""
        known = self.probabilities or (None,) * len(self.names)
        values = {f"probability of {name}": None if p is None else round(p, 6) for name, p in zip(self.names, known, strict=True)}
        return {"labels": None if self.error else "|".join(self.labels)} | values

    def cells(self) -> tuple[str, ...]:
        """The labels that are given and their probabilities, a line each."""
        given = self._given()
        return "\n".join(name for name, _ in given) or "none", "\n".join(f"{p:.1%}" for _, p in given)

    def brief(self) -> str:
        """The labels that are given."""
        return self.error or ", ".join(self.labels) or "none"

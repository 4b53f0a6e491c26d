"""A figure over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

SEEDS_FOR_INTERVAL = 3
"""Fewer say next to nothing of the spread: of two values, Student's t makes an interval twelve times as wide as they are apart."""


@dataclass(frozen=True)
class Summary:
    """A figure over seeds. What is said of its spread depends on their number:

    one seed has none; of two, the lowest and the highest are given; from three on, ``low`` and ``high`` are the 95 % interval of the
    mean (Student's t), as far as values of the kind go: a share is never above one.

    Args:
        values: one of each seed.
        lowest: that a value of the kind can be.
        highest: that a value of the kind can be.
    """

    values: tuple[float, ...]
    lowest: float = -math.inf
    highest: float = math.inf

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean, ``nan`` below three seeds."""
        n = len(self.values)
        if n < SEEDS_FOR_INTERVAL:
            return math.nan
        from scipy.stats import t

        return float(t.ppf(0.975, n - 1)) * statistics.stdev(self.values) / math.sqrt(n)

    @property
    def low(self) -> float:
        return min(self.values) if math.isnan(self.half) else max(self.mean - self.half, self.lowest)

    @property
    def high(self) -> float:
        return max(self.values) if math.isnan(self.half) else min(self.mean + self.half, self.highest)

    def written(self, number: Callable[[float], str]) -> str:
        """``69.0 ± 2.5`` for an interval, ``69.0 (68.2–69.8)`` for two seeds or an interval that is cut off by what is possible.

        Args:
            number: writes one figure.
        """
        if len(self.values) == 1:
            return number(self.mean)
        if math.isnan(self.half) or self.half > min(self.mean - self.low, self.high - self.mean) + 1e-12:
            return f"{number(self.mean)} ({number(self.low)}–{number(self.high)})"
        return f"{number(self.mean)} ± {number(self.half)}"

    def __str__(self) -> str:
        """The summary as it is printed, in per cent."""
        number, *spread = self.written(lambda share: f"{100 * share:.1f}").split(" ", 1)
        return " ".join([f"{number}%", *spread])

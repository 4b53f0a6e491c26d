"""Outcomes whose leading measure has its interval from draws of the images (the bootstrap)."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.outcome import PlainOutcome


class DrawnOutcome(PlainOutcome):
    """An outcome that can say what its leading measure would be on other draws of its images.

    Class attributes:
        draws: how many there are.
    """

    tests = "The interval is a bootstrap over the images, p that of the difference between two runs on the same draws."
    draws: ClassVar[int] = 1000

    def of_draw(self, times: np.ndarray) -> float:
        """The leading measure where image ``i`` is there ``times[i]`` times, ``times (N,)``."""
        raise NotImplementedError

    @cached_property
    def drawn(self) -> np.ndarray:
        """The leading measure of each draw, the same draws for every outcome of as many images."""
        count = len(self.targets)
        rows = np.random.default_rng(0).integers(0, count, (self.draws, count))
        return np.array([self.of_draw(np.bincount(row, minlength=count)) for row in rows])

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the leading measure."""
        low, high = np.percentile(self.drawn, [2.5, 97.5])
        return float(low), float(high)

    def p_against(self, other: Outcome) -> float:
        assert isinstance(other, DrawnOutcome)
        below = float((self.drawn < other.drawn).mean() + (self.drawn <= other.drawn).mean()) / 2  # of draws that are equal, half
        return min(1.0, 2 * min(below, 1 - below) + 1 / self.draws)

"""What outcomes have in common whose leading measure is the mean absolute error."""

from __future__ import annotations

import numpy as np
from scipy import stats

from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.outcome import PlainOutcome

DRAWS = 2000
"""Of the bootstrap."""


class AbsoluteErrors(PlainOutcome):
    """An outcome with an absolute error for each image, whose mean is ``SPLIT/mae``."""

    @property
    def errors(self) -> np.ndarray:
        """Absolute error of each image, ``(N,)``."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """The logged ones, ``SPLIT/mae_low`` and ``/mae_high``, and ``/unreadable``."""
        found = super().metrics()
        unreadable = found.pop(f"{self.split}/unreadable")
        low, high = self.interval()
        return found | {f"{self.split}/mae_low": low, f"{self.split}/mae_high": high, f"{self.split}/unreadable": unreadable}

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean absolute error: percentiles of ``DRAWS`` draws of the images."""
        draws = np.random.default_rng(0).integers(0, len(self.errors), (DRAWS, len(self.errors)))
        low, high = np.percentile(self.errors[draws].mean(1), [2.5, 97.5])
        return float(low), float(high)

    def p_against(self, other: Outcome) -> float:
        assert isinstance(other, AbsoluteErrors)
        differences = self.errors - other.errors
        return float(stats.ttest_1samp(differences, 0.0).pvalue) if len(differences) > 1 and differences.any() else 1.0

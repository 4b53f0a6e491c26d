"""Whether a configuration differs from another by more than its seeds do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from visionlora.reporting.runs import Configuration
from visionlora.reporting.summary import SEEDS_FOR_INTERVAL

PAIRED, UNPAIRED = "paired t-test over seeds", "Welch's t-test"


@dataclass(frozen=True)
class Comparison:
    """Compares one configuration with the baseline: the difference of the means, p corrected for the number of comparisons, the test."""

    difference: float
    p: float
    test: str


def compare(ranked: Sequence[Configuration], baseline: Configuration, metric: str) -> dict[int, Comparison]:
    """Each configuration with the baseline, by its place in ``ranked``; those without enough seeds are left out.

    The test is a paired t-test over the seeds that both have, where these are three or more: a seed stands for one draw of
    the data's order and of the start. Where they are fewer, it is Welch's t-test, of three seeds or more on each side. p is corrected
    by Holm's method.
    """
    found = {
        number: one
        for number, c in enumerate(ranked)
        if c is not baseline and (one := _tested(c.by_seed(metric), baseline.by_seed(metric))) is not None
    }
    return {number: replace(one, p=p) for (number, one), p in zip(found.items(), holm([one.p for one in found.values()]), strict=True)}


def holm(ps: Sequence[float]) -> list[float]:
    """p of several tests, corrected so that one of them all is below 0.05 by chance in one of twenty cases (Holm 1979)."""
    order = np.argsort(ps)
    steps = np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(steps * np.asarray(ps)[order]), 1.0) if len(ps) else []
    return [float(p) for p in corrected]


def _tested(ours: dict[object, float], theirs: dict[object, float]) -> Comparison | None:
    both = [seed for seed in ours if seed in theirs]
    one, other = np.array(list(ours.values())), np.array(list(theirs.values()))
    if len(both) >= SEEDS_FOR_INTERVAL:
        one, other = np.array([ours[seed] for seed in both]), np.array([theirs[seed] for seed in both])
        spread, test, name = np.ptp(one - other), stats.ttest_rel, PAIRED
    elif min(len(one), len(other)) >= SEEDS_FOR_INTERVAL:
        spread, test, name = max(np.ptp(one), np.ptp(other)), lambda a, b: stats.ttest_ind(a, b, equal_var=False), UNPAIRED
    else:
        return None
    if spread < 1e-12:  # equal to rounding: seeds that do not differ say nothing of chance
        return None
    return Comparison(float(one.mean() - other.mean()), float(test(one, other).pvalue), name)

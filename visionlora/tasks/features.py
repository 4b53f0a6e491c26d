"""Features of a frozen backbone on one scale, for probes."""

from __future__ import annotations

import numpy as np


def standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features ``(N, D)`` with mean 0, each divided by its standard deviation, the variance shrunk half-way to the mean of all.

    Of few images, a standard deviation is mostly chance, and a feature that hardly moved would be blown up. What it is worth is measured by
    ``benchmarks/probes.py``, see ``docs/recipes.md``.

    Returns:
        The features, the means ``(D,)`` and what was divided by, ``(D,)``.
    """
    mean, variance = features.mean(0), features.var(0)
    scale = np.sqrt((variance + variance.mean()) / 2) + 1e-6
    return (features - mean) / scale, mean, scale

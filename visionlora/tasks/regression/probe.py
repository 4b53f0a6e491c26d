"""The ridge regression of frozen features."""

from __future__ import annotations

import numpy as np

from visionlora.tasks.features import standardised

STRENGTHS = tuple(10.0**power for power in range(-1, 7))
"""Of the regularisation, that are tried."""
TRIED_ON = 5000
"""Images the strength is chosen on, at most."""


def ridge(features: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit scikit-learn's ridge regression to standardised features; its strength is chosen by leaving one image out at a time.

    Args:
        features: ``(N, D)``, as they come out of the backbone.
        numbers: scaled, ``(N, outputs)``.

    Returns:
        ``weight (outputs, D)`` and ``bias (outputs,)`` for features that are not standardised.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    rows, mean, scale = standardised(features.astype(np.float64))
    some = np.random.default_rng(0).permutation(len(rows))[:TRIED_ON]
    strength = RidgeCV(STRENGTHS).fit(rows[some], numbers[some]).alpha_ if len(some) > 2 else STRENGTHS[-1]
    fitted = Ridge(alpha=float(strength)).fit(rows, numbers)
    weight = np.atleast_2d(fitted.coef_) / scale  # the standardisation goes into the weights
    return weight, np.atleast_1d(fitted.intercept_) - weight @ mean

"""The logistic regressions of frozen features, one a label."""

from __future__ import annotations

import numpy as np

from visionlora.tasks.features import standardised

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the regularisation that are tried."""
TRIED_ON = 2000
"""Images the strength is chosen on, by cross-validation, at most."""
FEWEST = 3
"""Images with a label and without it that a regression takes, at least."""


def one_against_all(features: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression of standardised features for each label; one strength for all is chosen by cross-validated likelihood.

    Args:
        features: ``(N, D)``, as they come out of the backbone.
        there: which labels each image has, ``(N, labels)``.

    Returns:
        ``weight (labels, D)`` and ``bias (labels,)`` for features that are not standardised. A label that all images have, or hardly one,
        gets the bias of its share alone.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    rows, mean, scale = standardised(features)
    counts = there.sum(0)
    fit = [label for label in range(there.shape[1]) if FEWEST <= counts[label] <= len(there) - FEWEST]
    some = np.random.default_rng(0).permutation(len(rows))[:TRIED_ON]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    tried = [label for label in fit if 3 <= there[some, label].sum() <= len(some) - 3]
    strength = STRENGTHS[1]
    if tried:
        scores = [
            np.mean(
                [
                    cross_val_score(
                        LogisticRegression(C=c, max_iter=200), rows[some], there[some, label], cv=folds, scoring="neg_log_loss"
                    ).mean()
                    for label in tried
                ]
            )
            for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(scores))]
    shares = (counts + 0.5) / (len(there) + 1)
    weight, bias = np.zeros((there.shape[1], rows.shape[1])), np.log(shares / (1 - shares))
    for label in fit:
        fitted = LogisticRegression(C=strength, max_iter=500).fit(rows, there[:, label])
        weight[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
    weight = weight / scale  # the standardisation goes into the weights
    return weight, bias - weight @ mean

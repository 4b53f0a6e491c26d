"""The logistic regression of frozen features."""

from __future__ import annotations

import numpy as np

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the regularisation that are tried."""
TRIED_ON = 2000
"""Images the strength is chosen on, by cross-validation, at most."""


def logistic_regression(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit scikit-learn's logistic regression to standardised features; its strength is chosen by cross-validation.

    Args:
        features: ``(N, D)``, as they come out of the backbone.
        labels: classes, ``(N,)``.
        classes: how many there are; one without images gets an output that never wins.

    Returns:
        ``weight (classes, D)`` and ``bias (classes,)`` for features that are not standardised.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    mean, std = features.mean(0), features.std(0) + 1e-6
    rows = (features - mean) / std
    some = np.random.default_rng(0).permutation(len(rows))[:TRIED_ON]
    fewest = np.bincount(labels[some], minlength=classes)[np.unique(labels[some])].min()
    strength = STRENGTHS[1]
    if fewest >= 2:
        folds = StratifiedKFold(min(3, int(fewest)), shuffle=True, random_state=0)
        scores = [cross_val_score(LogisticRegression(C=c, max_iter=200), rows[some], labels[some], cv=folds).mean() for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(scores))]
    fitted = LogisticRegression(C=strength, max_iter=500).fit(rows, labels)
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, fitted.intercept_.min() - 1.0)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    weight = weight / std  # the standardisation goes into the weights
    return weight, bias - weight @ mean

"""The logistic regression of frozen features."""

from __future__ import annotations

import warnings

import numpy as np

from visionlora.tasks.features import standardised

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the regularisation that are tried."""
TRIED_ON = 2000
"""Images the strength is chosen on, by cross-validation, at most."""

SOFT = 0.9
"""Cross-entropy on the training images of a head that starts as the probe, in units of that of a head which knows nothing."""


def softened(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor for a probe's logits ``(N, C)`` with which it is as sure as ``SOFT`` says; 1 where it is less sure anyway.

    A probe that is right and sure on every training image leaves no gradient for the layers below. Made less sure it gives the same
    answers, and a training from there ends higher, see ``docs/recipes.md``.
    """
    from scipy.optimize import brentq
    from scipy.special import log_softmax

    def too_much(factor: float) -> float:
        found = log_softmax(factor * logits, axis=1)[np.arange(len(labels)), labels]
        return float(-found.mean() - SOFT * np.log(logits.shape[1]))

    return float(brentq(too_much, 0.0, 1.0)) if too_much(1.0) < 0 else 1.0


def logistic_regression(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit scikit-learn's logistic regression to standardised features; its strength is chosen by cross-validation.

    Args:
        features: ``(N, D)``, as they come out of the backbone.
        labels: classes, ``(N,)``.
        classes: how many there are; one without images gets an output that never wins. Where one alone has images, it always does.

    Returns:
        ``weight (classes, D)`` and ``bias (classes,)`` for features that are not standardised.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    if len(set(labels.tolist())) == 1:  # nothing to tell apart
        return np.zeros((classes, features.shape[1])), np.where(np.arange(classes) == labels[0], 0.0, -1.0)
    rows, mean, scale = standardised(features)
    some = np.random.default_rng(0).permutation(len(rows))[:TRIED_ON]
    counts = np.bincount(labels[some], minlength=classes)
    some = some[counts[labels[some]] >= 2]  # what has one image only cannot be held out
    strength = STRENGTHS[1]
    if (counts >= 2).sum() >= 2:
        folds = StratifiedKFold(min(3, int(counts.max())), shuffle=True, random_state=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")  # it is then held out by some folds only
            scores = [cross_val_score(LogisticRegression(C=c, max_iter=200), rows[some], labels[some], cv=folds).mean() for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(scores))]
    fitted = LogisticRegression(C=strength, max_iter=500).fit(rows, labels)
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, fitted.intercept_.min() - 1.0)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    weight = weight / scale  # the standardisation goes into the weights
    return weight, bias - weight @ mean

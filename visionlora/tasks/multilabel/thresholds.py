"""The thresholds above which a label is given."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve

MIDDLE = 0.5
RANGE = (0.1, 0.9)
"""Thresholds are within it. Where nearly all held-out images have a label, F1 is highest for giving it to every image there is."""
FEWEST = 5
"""Images that have a label, and that have it not, below which its own threshold would be chance: it keeps that of all labels."""


def best_thresholds(probabilities: np.ndarray, there: np.ndarray, each: bool) -> list[float]:
    """The thresholds with the highest F1, which for all labels together is micro F1.

    Args:
        probabilities: ``(N, labels)``, of images that were not trained on.
        there: which labels they have, ``(N, labels)``.
        each: a threshold for every label in place of one for all.
    """
    common = _best(probabilities.ravel(), there.ravel())
    if not each:
        return [common]
    return [
        _best(probabilities[:, label], there[:, label]) if FEWEST <= there[:, label].sum() <= len(there) - FEWEST else common
        for label in range(there.shape[1])
    ]


def _best(probabilities: np.ndarray, there: np.ndarray) -> float:
    """In the middle of the gap between the probability with the highest F1 and the next one below, so that it holds for others too."""
    if not there.any() or there.all():
        return MIDDLE
    precision, recall, thresholds = precision_recall_curve(there, probabilities)
    scores = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    best = int(scores.argmax())
    below = thresholds[best - 1] if best else 0.0
    return round(float(np.clip((thresholds[best] + below) / 2, *RANGE)), 4)

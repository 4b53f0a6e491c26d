"""Labels that are likely wrong: what a probe of frozen features says of images that it has not seen, weighed by cleanlab (Northcutt et al.
2021, arXiv 1911.00068).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import lightning as L
import numpy as np
from scipy.special import softmax
from sklearn.model_selection import StratifiedKFold
from torch import nn

from visionlora.common.text import counted
from visionlora.data.findings import Finding
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import head_inputs

FOLDS = 5
UNLIKELY = 0.5
"""Probability of an image's own label, in units of that of a guess, below which it is told; ``docs/tasks.md`` has what that finds."""


def wrong_labels(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData) -> list[Finding]:
    """The images whose label is likely wrong, the surest first; of all parts together, by cross-validation."""
    from cleanlab.filter import find_label_issues

    names, parts, labels, features = [], [], [], []
    for part in data.parts:
        rows, targets = head_inputs(trainer, model, head, data, part)
        kept = data.readable(part)
        names += kept.names
        parts += [part] * len(kept)
        labels.append(targets.numpy())
        features.append(rows.numpy())
    classes, rows_, targets_ = data.classes, np.concatenate(features), np.concatenate(labels)
    folds = min(FOLDS, min(Counter(targets_.tolist()).values()))
    if folds < 2:
        return []
    shares = np.zeros((len(rows_), len(classes)))
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(rows_, targets_):
        weight, bias = data.task.probe(rows_[train], targets_[train])
        shares[held_out] = softmax(rows_[held_out] @ weight.T + bias, axis=1)
    found = find_label_issues(targets_, shares, return_indices_ranked_by="self_confidence", filter_by="predicted_neq_given", n_jobs=1)
    unlikely = [i for i in found if shares[i, targets_[i]] < UNLIKELY / len(classes)]
    return [
        Finding(
            names[i], parts[i], classes[targets_[i]], "label", f"looks like {classes[shares[i].argmax()]!r}, {shares[i].max():.0%} sure"
        )
        for i in unlikely
    ]


def wrong_classes(classes: Sequence[str], counts: Sequence[int] | None) -> list[str]:
    """Sentences on classes whose names differ in nothing but case and blanks, and on classes that differ in size."""
    found = []
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(name.casefold().split()).replace("_", "").replace("-", ""), []).append(name)
    found += [f"The classes {' and '.join(map(repr, names))} differ in writing alone." for names in alike.values() if len(names) > 1]
    if counts and max(counts) >= 5 * max(min(counts), 1):
        least, most = int(np.argmin(counts)), int(np.argmax(counts))
        few = counted(counts[least], "training image")
        found.append(f"Classes differ in size: {classes[least]!r} has {few}, {classes[most]!r} {counts[most]:,}; see data.balance.")
    return found

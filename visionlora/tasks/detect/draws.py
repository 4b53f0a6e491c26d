"""The mean average precision of draws of the images: COCO's, from matches that are made once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.ops import box_iou

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersections over union that the precision is averaged over."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which it is measured."""


@dataclass(frozen=True)
class OfClass:
    """Every box that is found of a class, likeliest first.

    Args:
        images: index of the image of each, ``(boxes,)``.
        hits: whether it is an object that no likelier one is, at each of ``OVERLAPS``, ``(10, boxes)``.
        objects: how many there are in each image, ``(N,)``.
    """

    images: np.ndarray
    hits: np.ndarray
    objects: np.ndarray


def by_class(found: Tensor, true: Tensor) -> list[OfClass]:
    """The classes that there are objects of.

    Args:
        found: ``(N, KEPT, 6)``: class, score, box, likeliest first; class -1 is none.
        true: ``(N, most, 5)``: class, box; class -1 is none.
    """
    return [_of_class(found, true, kind) for kind in true[..., 0].unique().tolist() if kind >= 0]


def _of_class(found: Tensor, true: Tensor, kind: float) -> OfClass:
    images, scores, hits, objects = [], [], [], []
    for image, (boxes, own) in enumerate(zip(found, true, strict=True)):
        boxes, own = boxes[boxes[:, 0] == kind], own[own[:, 0] == kind]
        images += [image] * len(boxes)
        scores.append(boxes[:, 1].numpy())
        hits.append(_hits(box_iou(boxes[:, 2:6], own[:, 1:5]).numpy()))
        objects.append(len(own))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return OfClass(np.array(images, np.int64)[order], np.concatenate(hits, axis=1)[:, order], np.array(objects))


def _hits(overlap: np.ndarray) -> np.ndarray:
    """As COCO matches: each box in turn with the free object that it covers most; ``overlap`` is ``(boxes, objects)``."""
    hits = np.zeros((len(OVERLAPS), len(overlap)), bool)
    if not overlap.shape[1]:
        return hits
    for at, least in enumerate(OVERLAPS):
        free = np.ones(overlap.shape[1], bool)
        for box, row in enumerate(overlap):
            best = int(np.where(free, row, -1.0).argmax())
            if free[best] and row[best] >= least:
                hits[at, box], free[best] = True, False
    return hits


def mean_precision(classes: list[OfClass], times: np.ndarray) -> float:
    """COCO's mean average precision where image ``i`` is there ``times[i]`` times; over the classes that have objects then."""
    each = [_precision(one, times) for one in classes if (one.objects * times).sum()]
    return float(np.mean(each)) if each else 0.0


def _precision(one: OfClass, times: np.ndarray) -> float:
    weights = times[one.images]
    if not weights.any():
        return 0.0
    right = np.cumsum(one.hits * weights, axis=1)
    every = np.maximum(np.cumsum(weights), 1)
    recall, precision = right / (one.objects * times).sum(), right / every
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    found = np.zeros((len(OVERLAPS), len(RECALLS)))
    for at in range(len(OVERLAPS)):
        places = np.searchsorted(recall[at], RECALLS, side="left")
        inside = places < len(weights)
        found[at, inside] = precision[at, places[inside]]
    return float(found.mean())

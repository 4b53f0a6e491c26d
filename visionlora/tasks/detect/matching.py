"""Which of the found boxes are objects that are there."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, Context

import torch
from torch import Tensor
from torchvision.ops import box_iou

OVERLAP = 0.5
"""Intersection over union from which a box is an object."""


@dataclass(frozen=True)
class Matched:
    """The found boxes of an image, likeliest first, and what they are.

    Args:
        scores: of the boxes.
        hits: whether each is an object of its class that no likelier one is.
        objects: how many there are.
        missed: indices of the objects that none of the boxes is.
    """

    scores: Tensor
    hits: Tensor
    objects: int
    missed: list[int]


def matched(found: Tensor, true: Tensor, least: float = 0.0) -> Matched:
    """Match boxes with objects as COCO does: the likeliest first, each with the free object of its class that it covers most.

    Args:
        found: ``(boxes, 6)``, or more columns: class, score, box; class -1 is none.
        true: ``(objects, 5)``: class, box; class -1 is none.
        least: score below which boxes do not count.
    """
    found, true = found[(found[:, 0] >= 0) & (found[:, 1] >= least)], true[true[:, 0] >= 0]
    overlap = box_iou(found[:, 2:6], true[:, 1:5]) * (found[:, :1] == true[None, :, 0])
    hits = torch.zeros(len(found), dtype=torch.bool)
    free = torch.ones(len(true), dtype=torch.bool)
    for place in range(len(found) if len(true) else 0):
        value, best = (overlap[place] * free).max(0)
        if value >= OVERLAP:
            hits[place], free[best] = True, False
    return Matched(found[:, 1], hits, len(true), free.nonzero().flatten().tolist())


def best_threshold(matches: list[Matched], usual: float) -> float:
    """The score from which a box is told, so that F1 is largest over all images; ``usual`` where nothing is found or there. It has three
    digits and is rounded down, so that the box whose score it is counts.
    """
    scores, hits = torch.cat([one.scores for one in matches]), torch.cat([one.hits for one in matches])
    objects = sum(one.objects for one in matches)
    if not objects or not hits.any():
        return usual
    order = scores.argsort(descending=True)
    right = hits[order].cumsum(0)
    f1 = 2 * right / (torch.arange(1, len(order) + 1) + objects)
    score = scores[order][f1.argmax()].numpy()
    return float(Context(prec=3, rounding=ROUND_DOWN).create_decimal(str(score)))

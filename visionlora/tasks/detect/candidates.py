"""The likeliest boxes of a batch, before those that lie over each other are dropped."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from visionlora.tasks.detect.said import Said

CANDIDATES = 1000
"""Boxes of an image that are looked at."""


class Candidates(NamedTuple):
    """Of each image so many boxes, likeliest first.

    Args:
        scores: ``(N, K)``.
        kinds: index of the class of each, ``(N, K)``.
        rows: which anchor or proposal it is of, ``(N, K)``.
        boxes: left, top, right and bottom in shares of the side, ``(N, K, 4)``.
    """

    scores: Tensor
    kinds: Tensor
    rows: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, said: Said) -> Candidates:
        """A box of each anchor or proposal and class, of which the likeliest are taken."""
        scores, boxes = said.scores(), said.boxes().clamp(0, 1)
        classes, of_each = scores.shape[2], boxes.shape[2]  # boxes: (N, A, 1 or classes, 4)
        best, places = scores.flatten(1).topk(min(CANDIDATES, scores.shape[1] * classes))
        rows, kinds = places // classes, places % classes
        own = rows if of_each == 1 else places  # of (N, A * of_each, 4)
        return cls(best, kinds, rows, boxes.flatten(1, 2).gather(1, own[..., None].expand(-1, -1, 4)))

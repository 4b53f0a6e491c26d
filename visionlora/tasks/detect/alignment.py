"""Two outputs of one detector, computed by different libraries, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from visionlora.backbone.placed.two_stage import PACKED, PROPOSAL
from visionlora.tasks.detect.said import TWO_STAGES, kind_of

CLOSE = 1e-3
"""Share of the image's side by which the corners of the same proposal may differ."""
SHARED = 0.9
"""Of the proposals of an image those that both must have at least."""


def same_rows(found: Tensor, wanted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The rows ``(rows, columns)`` that are of the same anchors or proposals, in the same order.

    Which proposals Faster R-CNN looks at, and Mask R-CNN gives a mask, is decided by likelihoods and overlaps; of two nearly equal ones,
    rounding may choose the other. Where an image has more than a tenth of such ones, or the detector has no proposals, the outputs are
    returned as they are.

    Args:
        found: outputs ``(N, rows, columns)``.
        wanted: those that it should have been.
        classes: how many there are.
    """
    if found.shape != wanted.shape or found.ndim != 3 or kind_of(wanted.shape[2], classes) not in TWO_STAGES:
        return found, wanted
    packed = wanted[0, :, 0] == PACKED
    pairs = [(found[:, packed].flatten(0, 1), wanted[:, packed].flatten(0, 1))]
    for one, other in zip(found[:, ~packed], wanted[:, ~packed], strict=True):
        one, other = one[one[:, 0] >= PROPOSAL], other[other[:, 0] >= PROPOSAL]
        apart = torch.cdist(one[:, 1:5], other[:, 1:5], p=torch.inf)
        if not apart.numel():
            continue
        distance, nearest = apart.min(1)
        same = (distance <= CLOSE) & (apart.argmin(0)[nearest] == torch.arange(len(one), device=one.device))
        same &= one[:, 0] == other[nearest, 0]  # both are given a mask, or neither
        if int(same.sum()) < SHARED * max(len(one), len(other)):
            return found, wanted
        pairs.append((one[same], other[nearest[same]]))
    return torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs])

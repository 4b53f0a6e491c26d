"""Masks of objects between run lengths and tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from visionlora.common.errors import UnreadableError
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.detect.masks import pasted
from visionlora.tasks.run_lengths import counts_of, decoded

MOST = 2**26
"""Bytes that the masks of an image take while it is made into a view; of more, they are made smaller first."""


def masks_in(label: Boxes, size: tuple[int, int]) -> tv_tensors.Mask:
    """The masks of the objects in an image of ``size = (height, width)``, uint8 ``(objects, height, width)``, or smaller.

    Raises:
        UnreadableError: an object has none.
    """
    if label.bare:
        raise UnreadableError("it has objects without a mask, which Mask R-CNN needs")
    share = min(1.0, math.sqrt(MOST / (max(len(label.masks), 1) * size[0] * size[1])))
    sides = [max(round(side * share), 1) for side in size]
    found = torch.zeros(len(label.masks), *sides, dtype=torch.uint8)
    for place, counts in enumerate(label.masks):
        one = tv_tensors.Mask(torch.from_numpy(decoded(counts, label.size)))
        found[place] = functional.resize(one, sides)
    return tv_tensors.Mask(found)


def lengths_of(columns: Tensor, scale: float, size: tuple[int, int]) -> list[bytes]:
    """The run lengths of masks that are found, in an image of ``size = (height, width)``; see ``masks.pasted``. One is made at a time."""
    if not columns.shape[1]:
        return []
    return [counts_of(pasted(one[None], scale, size)[0].numpy()) for one in columns]

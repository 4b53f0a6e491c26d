"""Masks of objects as columns beside their boxes: of what is found, and of what is there.

A mask that is found has ``SIDE²`` chances, in steps of 1/255, three a column, and the box that they lie in; one that is there the side of
the view in pixels, and ``TRUE_SIDE²`` pixels of its box, eight a column. So the masks of an evaluation take a bounded part of the memory,
however large the images are. An object of up to ``TRUE_SIDE`` pixels of the view has its exact mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from visionlora.backbone.placed.two_stage_masks import SIDE

STEPS = 255
"""Of a chance."""
OF_FOUND = 4 + -(-(SIDE**2) // 3)
"""Columns of a mask that is found: left, top, right and bottom of its box, and its chances."""
TRUE_SIDE = 56
"""Pixels a side that are kept of the mask of an object."""
OF_TRUE = 1 + TRUE_SIDE**2 // 8
"""Columns of a mask that is there: the side of the view, and its pixels; eight a column are exact in bfloat16."""
NEAR = 1e-3
"""Of a pixel, by which a corner of a box may be beyond the pixels that it ends at."""


def columns_of_found(chances: Tensor, boxes: Tensor) -> Tensor:
    """Chances ``(n, SIDE²)`` and boxes ``(n, 4)`` as columns ``(n, OF_FOUND)``."""
    steps = (chances.float() * STEPS).round()
    steps = torch.nn.functional.pad(steps, (0, -steps.shape[1] % 3)).unflatten(1, (-1, 3))
    numbers = (steps * steps.new_tensor([1.0, 256.0, 65536.0])).sum(2)  # not a product of matrices, which autocast would round
    return torch.cat([boxes.float(), numbers], dim=1)


def pasted(columns: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
    """The masks that are found ``(n, OF_FOUND)`` in an image of ``size = (height, width)`` in which boxes are ``scale`` times as large, as
    torchvision pastes them: bool ``(n, height, width)``.
    """
    numbers = columns[:, 4:].long()
    steps = torch.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], dim=2).flatten(1)[:, : SIDE**2]
    chances = (steps.float() / STEPS).view(-1, 1, SIDE, SIDE)
    boxes, found = columns[:, :4] * scale, torch.zeros(len(columns), *size, dtype=torch.bool)
    inside = (boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0])  # torchvision's pasting fails for a box beyond the image, as in the margin
    if inside.any():
        found[inside] = paste_masks_in_image(chances[inside], boxes[inside], size)[:, 0] > 0.5
    return found


def columns_of_true(masks: Tensor, boxes: Tensor) -> Tensor:
    """What the masks ``(n, side, side)`` have in their boxes ``(n, 4)``, which are in pixels, as columns ``(n, OF_TRUE)``."""
    side = masks.shape[-1]
    found = torch.zeros(len(masks), TRUE_SIDE, TRUE_SIDE)
    for place, (left, top, right, bottom) in enumerate(_windows(boxes, side)):
        inside = masks[place, top:bottom, left:right]
        found[place] = inside[_spread(TRUE_SIDE, bottom - top)][:, _spread(TRUE_SIDE, right - left)]
    bits = (found.view(len(masks), OF_TRUE - 1, 8) * 2.0 ** torch.arange(8)).sum(2)
    return torch.cat([torch.full((len(masks), 1), float(side)), bits], dim=1)


def true_masks(columns: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The masks of ``columns_of_true`` in a view of ``side`` pixels, bool ``(n, side, side)``; boxes are shares of the side."""
    bits = (columns[:, 1:].long()[..., None] >> torch.arange(8, device=columns.device)) & 1
    small = bits.view(-1, TRUE_SIDE, TRUE_SIDE).bool()
    found = torch.zeros(len(columns), side, side, dtype=torch.bool, device=columns.device)
    for place, (left, top, right, bottom) in enumerate(_windows(boxes * side, side)):
        rows, across = _spread(bottom - top, TRUE_SIDE), _spread(right - left, TRUE_SIDE)
        found[place, top:bottom, left:right] = small[place][rows.to(small.device)][:, across.to(small.device)]
    return found


def side_of_view(columns: Tensor) -> int:
    """The side of the view that masks which are there are of, ``columns (…, OF_TRUE)``; where there are none, some side."""
    return int(columns[..., 0].max()) if columns.numel() and columns[..., 0].max() > 0 else 224


def _windows(boxes: Tensor, side: int) -> list[list[int]]:
    """The whole pixels that boxes touch, at least one a side."""
    low = (boxes[:, :2].float() + NEAR).floor().clamp(0, side - 1)
    high = (boxes[:, 2:].float() - NEAR).ceil().clamp(max=side)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1).long().tolist()


def _spread(count: int, size: int) -> Tensor:
    """``count`` places that are spread evenly over ``size``."""
    return ((torch.arange(count) + 0.5) / count * size).long()

"""The loss of the masks of Mask R-CNN: torchvision's own, of the boxes that were given one and are objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss

from visionlora.backbone.placed.two_stage_masks import SIDE
from visionlora.common.errors import UserError
from visionlora.tasks.detect.masks import side_of_view, true_masks
from visionlora.tasks.detect.said import UNITS as UNITS_OF_BOXES
from visionlora.tasks.detect.said import Said


def mask_losses(said: Said, targets: Tensor, units: float) -> dict[str, Tensor]:
    """As in ``RoIHeads.forward``: the cross-entropy of the pixels, where a box covers an object by half.

    Args:
        said: by Mask R-CNN.
        targets: ``(N, objects, 5 + OF_TRUE)``.
        units: of the side, in which boxes are matched.

    Raises:
        UserError: the targets have no masks.
    """
    if targets.shape[2] == 5:
        raise UserError(
            "Mask R-CNN learns the mask of every object, and the targets are boxes alone; docs/boxes.md says which data has masks."
        )
    assert said.masks is not None
    assert said.masked is not None
    heads: Any = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, UNITS_OF_BOXES, 0.05, 0.5, 100)
    side, lie_in = side_of_view(targets[..., 5:]), said.mask_boxes().detach()
    logits, boxes, true, objects = [], [], [], []
    for image, rows in enumerate(targets):
        own, looked = rows[rows[:, 0] >= 0], said.masked[image].nonzero().flatten()
        if not len(own) or not len(looked):
            continue
        places = lie_in[image, looked]
        kinds = torch.ones(len(own), dtype=torch.int64, device=own.device)
        matched, hits = heads.assign_targets_to_proposals([places * units], [own[:, 1:5] * units], [kinds])
        hit = hits[0] > 0
        if hit.any():
            logits.append(said.masks[image, looked[hit]].view(-1, 1, SIDE, SIDE))
            boxes.append(places[hit] * side)
            true.append(true_masks(own[:, 5:], own[:, 1:5], side))
            objects.append(matched[0][hit])
    if not logits:
        return {"mask": said.masks.sum() * 0}
    one_kind = [torch.zeros(len(one), dtype=torch.int64, device=one.device) for one in true]  # a mask is the same for all classes
    return {"mask": maskrcnn_loss(torch.cat(logits), boxes, true, one_kind, objects)}

"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) as one tensor: Faster R-CNN's, with a mask for the likeliest of its proposals.

torchvision's looks at the masks of proposals that are objects in training, and of the boxes that it has found in evaluation. Here it is the
same in both: the boxes that are made of the proposals which are likeliest to hold an object, each of its likeliest class, those first that
do not lie over a likelier one.

The mask is the same for all classes: an image's output has as many numbers for two classes as for eighty, and the model need not be told
which class is meant. In the paper (section 4) it costs 0.6 points of the average precision of masks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, nms

from visionlora.backbone.placed.maps import is_narrow, wide
from visionlora.backbone.placed.two_stage import PROPOSAL, SAMPLES, TwoStage, faster_rcnn
from visionlora.backbone.placed.two_stage import of_torchvision as boxes_of_torchvision

SIDE = 28
"""Of a mask."""
LOOKED_AT = (100, 32)
"""Proposals of an image that are given a mask: as many as there are boxes in the paper's evaluation, and over a narrow backbone."""
LAYERS = (4, 2)
"""Convs of the head of the masks: torchvision's, and over a narrow backbone."""
SAME = 0.7
"""Intersection over union from which the less likely of two boxes is given a mask only where there is room for more."""
PLACES = SIDE // 2
"""A side of the patch of features that a mask is made of."""
MASKED = 2.0
"""What a row is, in its first column: a proposal that is given a mask."""
LAST = "roi_heads.mask_predictor.mask_fcn_logits"
"""The layer that gives the masks."""


class TwoStageMasks(TwoStage):
    """``TwoStage`` with ``SIDE²`` columns more: of the rows that are ``MASKED`` the logits of the mask, row by row from the upper left; the
    others have zeros. The mask lies in the box that the row gives for its likeliest class.

    Args:
        looked_at: proposals of an image that are given one.
        **parts: see ``TwoStage``.
    """

    def __init__(self, looked_at: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.looked_at = looked_at

    def rows(self, maps: list[Tensor], there: Tensor, proposals: Tensor, side: int) -> Tensor:
        rows = super().rows(maps, there, proposals, side)
        heads: Any = self.roi_heads
        chosen, boxes = self._chosen(rows.detach(), side)
        patches = self.cut(heads.mask_roi_pool, maps, boxes, side)
        found = wide(heads.mask_predictor(heads.mask_head(patches))).reshape(*chosen.shape, SIDE**2)
        masks = rows.new_zeros(*rows.shape[:2], SIDE**2, dtype=found.dtype)
        masks = masks.scatter(1, chosen[..., None].expand(-1, -1, SIDE**2), found)
        looked = torch.zeros_like(rows[..., 0]).scatter(1, chosen, torch.ones_like(boxes[..., 0]))
        kind = torch.where((rows[..., 0] == PROPOSAL) & (looked > 0), MASKED, rows[..., 0])
        return torch.cat([kind[..., None], rows[..., 1:], masks], dim=2)

    @torch.no_grad()
    def _chosen(self, rows: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Which rows are given a mask ``(N, looked_at)``, and the box of each for its likeliest class, in pixels."""
        heads: Any = self.roi_heads
        classes = (rows.shape[2] - 6) // 5
        likely, kinds = rows[..., 5 : 6 + classes].log_softmax(2)[..., 1:].max(2)
        scores = 1 / (1 - likely)  # in the order of the chances, and apart where these are so small that they are none
        place = kinds[..., None, None].expand(-1, -1, 1, 4)
        sides = rows[..., 6 + classes :].unflatten(2, (classes, 4)).gather(2, place)
        boxes = heads.box_coder.decode_single(sides.reshape(-1, 4), (rows[..., 1:5] * side).reshape(-1, 4))
        boxes = boxes.view(*rows.shape[:2], 4).clamp(0, side)
        apart = 2.0 * side * torch.arange(boxes.shape[0], device=boxes.device)[:, None, None]  # another place for each image
        free = torch.zeros_like(scores.flatten()).index_fill(0, nms((boxes + apart).flatten(0, 1), scores.flatten(), SAME), 1.0)
        order = torch.where(free.view(scores.shape) > 0, scores, scores / 1000).where(rows[..., 0] == PROPOSAL, -1.0)
        chosen = order.topk(self.looked_at, dim=1)[1]
        return chosen, boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


def mask_rcnn(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """Mask R-CNN over a backbone that gives maps of so many channels, with so many pixels between their places."""
    narrow = is_narrow(channels)
    below = cast(TwoStage, faster_rcnn(backbone, channels, steps, classes))
    heads: Any = below.roi_heads
    width: int = heads.box_head.fc6.in_features // heads.box_roi_pool.output_size[0] ** 2
    heads.mask_roi_pool = MultiScaleRoIAlign(heads.box_roi_pool.featmap_names, PLACES, SAMPLES[narrow])
    heads.mask_head = MaskRCNNHeads(width, (width,) * LAYERS[narrow], 1)
    heads.mask_predictor = MaskRCNNPredictor(width, width, 1)
    heads.mask_predictor.mask_fcn_logits = _last(width)
    return _with_masks(below, LOOKED_AT[narrow])


def of_torchvision(model: MaskRCNN) -> TwoStageMasks:
    """torchvision's own Mask R-CNN, whose last layer gives one mask, see ``for_all_classes``, as a model that gives one tensor."""
    return _with_masks(boxes_of_torchvision(model), LOOKED_AT[0])


def _with_masks(below: TwoStage, looked_at: int) -> TwoStageMasks:
    return TwoStageMasks(looked_at, backbone=below.backbone, neck=below.neck, rpn=below.rpn, roi_heads=below.roi_heads)


def for_all_classes(model: MaskRCNN) -> None:
    """Let the last layer of torchvision's give one mask for all classes."""
    predictor: Any = model.roi_heads.mask_predictor
    predictor.mask_fcn_logits = _last(predictor.mask_fcn_logits.in_channels)


def _last(channels: int) -> nn.Conv2d:
    """The last layer, with which every pixel is as likely as not at first, as in Detectron2; torchvision's start is far from that."""
    made = nn.Conv2d(channels, 1, 1)
    nn.init.normal_(made.weight, std=0.001)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def of_all_classes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose last layer gives a mask a class, the first for the background, with the mean over the classes in its place."""
    keys = [key for key in (f"{LAST}.weight", f"{LAST}.bias") if key in state and len(state[key]) > 1]
    return state | {key: state[key][1:].mean(0, keepdim=True) for key in keys}

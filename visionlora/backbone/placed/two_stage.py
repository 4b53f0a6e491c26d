"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) as one tensor: what is proposed, and what is said of the proposals.

torchvision's needs the objects of an image before it can be trained, as it draws the proposals that it looks at by them. Here it looks at
the ``PROPOSALS`` likeliest proposals of an image in training as in evaluation, so that the model needs nothing but images.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from visionlora.backbone.placed.maps import Neck, OverMaps, is_narrow, wide
from visionlora.backbone.placed.one_stage import CHANNELS, RATIOS, anchors_of

PROPOSALS, CANDIDATES = 300, 1000
"""Of an image: proposals that are looked at, as many as in the paper's evaluation, and anchors of each map that they are chosen from."""
HIDDEN = (1024, 256)
"""Numbers that describe a proposal: torchvision's, and over a narrow backbone."""
PLACES, SAMPLES = 7, (2, 1)
"""A side of the patch of features that is cut out for a proposal, and of the samples of each of its places: torchvision's, and over a
narrow backbone, where four samples take half of a step's time on a CPU."""
PROPOSAL, PACKED, NOTHING = 1.0, 0.0, -1.0
"""What a row is, in its first column: a proposal, some anchors, or a proposal that is lacking."""
OF_ANCHOR = 9
"""Numbers that are said of an anchor: its four corners, four of the box, and a logit of there being an object."""
ORDER = (1.0, 3.14159, 2.71828, 1.41421)
"""Weights of a box's corners in the number by which proposals are ordered, which is another for each of them."""


class TwoStage(OverMaps):
    """Backbone, neck, proposals and what is said of them. An image has ``PROPOSALS`` rows of proposals, then its anchors:

    - ``PROPOSAL``, the proposal (left, top, right, bottom), a logit for the background and one a class, four numbers of a box a class;
    - ``NOTHING`` and zeros, where there are fewer proposals;
    - ``PACKED``, then as many anchors as there is room for, ``OF_ANCHOR`` numbers each; at the end of the last row zeros.

    Places are shares of the input's side. The proposals are ordered by where they are: by their likelihood, rounding would reorder them.

    Args:
        backbone: see ``OverMaps``.
        neck: see ``OverMaps``.
        rpn: torchvision's network that proposes.
        roi_heads: torchvision's heads that look at the proposals.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        super().__init__(backbone, neck)
        self.rpn, self.roi_heads = rpn, roi_heads

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, S, S) -> (N, rows, 1 + 4 + 5 classes + 1)``."""
        maps, (count, _, _, side) = self.maps(images), images.shape
        objectness, regression = self.rpn.head(maps)
        logits, boxes = concat_box_prediction_layers(objectness, regression)
        anchors = anchors_of(self.rpn.anchor_generator, images, maps).expand(count, -1, -1)
        said = torch.cat([anchors, boxes.view(anchors.shape), logits.view(count, -1, 1)], dim=2)
        levels = [one.shape[1] * one.shape[2] * one.shape[3] for one in objectness]
        # Boxes of several images are compared at once only where the number of images is to stay open.
        parts = [said.detach()] if torch.compiler.is_exporting() else said.detach().split(1)
        there, proposals = torch.cat([self._proposals(wide(part), levels, side) for part in parts]).split((1, 4), dim=2)
        rows = self.rows(maps, there, proposals, side)
        return torch.cat([rows, packed(said, rows.shape[2]).to(rows.dtype)], dim=1)

    def rows(self, maps: list[Tensor], there: Tensor, proposals: Tensor, side: int) -> Tensor:
        """The rows of the proposals ``(N, PROPOSALS, 4)``, which are in pixels; ``there`` says what each is."""
        logits, boxes = self._looked_at(maps, proposals, side)
        return torch.cat([there, proposals / side, logits, boxes], dim=2)

    @torch.no_grad()
    def _proposals(self, said: Tensor, levels: list[int], side: int) -> Tensor:
        """``RegionProposalNetwork.filter_proposals`` in shapes that do not depend on what is found: what each row is, and the likeliest
        boxes of an image that do not lie over each other, in pixels ``(N, PROPOSALS, 1 + 4)``.
        """
        starts = [sum(levels[:level]) for level in range(len(levels))]
        parts = said[..., 8].split(levels, dim=1)
        best = torch.cat([one.topk(min(CANDIDATES, size), 1)[1] + at for one, size, at in zip(parts, levels, starts, strict=True)], dim=1)
        chosen = said.gather(1, best[..., None].expand(-1, -1, said.shape[2]))
        boxes = self.rpn.box_coder.decode_single(chosen[..., 4:8].flatten(0, 1), chosen[..., :4].flatten(0, 1) * side)
        boxes = boxes.view(chosen.shape[0], -1, 4).clamp(0, side)
        scores = chosen[..., 8].sigmoid()
        own = torch.repeat_interleave(torch.tensor([min(CANDIDATES, size) for size in levels])).to(boxes.device)
        apart = own + len(levels) * torch.arange(boxes.shape[0], device=boxes.device)[:, None]  # another place for each map and image
        kept = nms((boxes + 2.0 * side * apart[..., None]).flatten(0, 1), scores.flatten(), self.rpn.nms_thresh)
        free = torch.zeros_like(scores.flatten()).index_fill(0, kept, 1.0).view(scores.shape)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= self.rpn.min_size).all(-1) & (scores >= self.rpn.score_thresh)
        return _likeliest(boxes, torch.where((free > 0) & large, scores, NOTHING))

    def _looked_at(self, maps: list[Tensor], proposals: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Logits ``(N, PROPOSALS, 1 + classes)`` and boxes ``(N, PROPOSALS, 4 classes)`` of the proposals; the last map is for proposing
        alone.
        """
        heads: Any = self.roi_heads
        logits, boxes = heads.box_predictor(heads.box_head(self.cut(heads.box_roi_pool, maps, proposals, side)))
        shape = (*proposals.shape[:2], -1)
        return wide(logits).view(shape), wide(boxes[:, 4:]).view(shape)  # no box of the background

    @staticmethod
    def cut(pool: MultiScaleRoIAlign, maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        """What ``pool`` cuts out of the maps for boxes in pixels, ``(N, B, 4) -> (N B, channels, places, places)``."""
        features = [wide(one) for one in maps[:-1]]
        if torch.compiler.is_exporting():
            return _patches(pool, features, boxes, side).to(maps[0].dtype)
        named = {str(place): one for place, one in enumerate(features)}
        return pool(named, list(boxes), [(side, side)] * len(boxes)).to(maps[0].dtype)  # type: ignore[no-any-return]


def _likeliest(boxes: Tensor, scores: Tensor) -> Tensor:
    """The ``PROPOSALS`` boxes of the highest scores, none below 0, by where they are; before each what its row is."""
    lacking = max(PROPOSALS - scores.shape[1], 0)
    scores = functional.pad(scores, (0, lacking), value=NOTHING)
    best, places = scores.topk(PROPOSALS, dim=1)
    found = functional.pad(boxes, (0, 0, 0, lacking)).gather(1, places[..., None].expand(-1, -1, 4))
    there = best >= 0
    found = torch.where(there[..., None], found, 0.0)
    order = torch.where(there, found @ found.new_tensor(ORDER), torch.inf).argsort(1)
    rows = torch.cat([torch.where(there, PROPOSAL, NOTHING)[..., None].to(found.dtype), found], dim=2)
    return rows.gather(1, order[..., None].expand(-1, -1, 5))


def _patches(pool: MultiScaleRoIAlign, maps: list[Tensor], proposals: Tensor, side: int) -> Tensor:
    """What ``pool`` gives, in shapes that do not depend on what is found: every patch is cut out of every map."""
    steps = [round(math.log2(side / one.shape[-1])) for one in maps]
    images = torch.arange(proposals.shape[0], device=proposals.device, dtype=proposals.dtype)[:, None, None]
    places = torch.cat([images.expand(-1, proposals.shape[1], 1), proposals], dim=2).flatten(0, 1)
    levels = LevelMapper(steps[0], steps[-1])([proposals.flatten(0, 1)])
    found = maps[0].new_zeros(())
    for level, (one, step) in enumerate(zip(maps, steps, strict=True)):
        cut = roi_align(one, places, pool.output_size, 1 / 2**step, pool.sampling_ratio)
        found = torch.where((levels == level)[:, None, None, None], cut, found)
    return found


def packed(said: Tensor, columns: int) -> Tensor:
    """What is said of anchors ``(N, anchors, OF_ANCHOR)`` as rows of so many columns, the first of which is ``PACKED``."""
    each = (columns - 1) // OF_ANCHOR
    whole = functional.pad(said, (0, 0, 0, -said.shape[1] % each)).reshape(said.shape[0], -1, each * OF_ANCHOR)
    return functional.pad(whole, (1, columns - 1 - each * OF_ANCHOR), value=PACKED)


def unpacked(rows: Tensor) -> Tensor:
    """The anchors of ``packed`` rows again, ``(N, anchors, OF_ANCHOR)``; those that are nothing but zeros among them."""
    each = (rows.shape[2] - 1) // OF_ANCHOR
    found: Tensor = rows[..., 1 : 1 + each * OF_ANCHOR].unflatten(2, (each, OF_ANCHOR)).flatten(1, 2)
    return found


def faster_rcnn(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """Faster R-CNN over a backbone that gives maps of so many channels, with so many pixels between their places."""
    narrow = is_narrow(channels)
    width, hidden = CHANNELS[narrow], HIDDEN[narrow]
    sizes = tuple((4 * step,) for step in (*steps, 2 * steps[-1]))
    body = nn.Identity()
    body.out_channels = width  # type: ignore[assignment]
    theirs = FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign([str(place) for place in range(len(steps))], PLACES, SAMPLES[narrow]),
        box_head=TwoMLPHead(width * PLACES**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
    )
    return TwoStage(backbone, Neck(channels, width), theirs.rpn, theirs.roi_heads)


def of_torchvision(model: FasterRCNN) -> TwoStage:
    """torchvision's own Faster R-CNN as a model that gives one tensor."""
    return TwoStage(model.backbone, nn.Identity(), cast(Any, model.rpn), cast(Any, model.roi_heads))

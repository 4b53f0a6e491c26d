"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) as one tensor: what is proposed, and what is said of the proposals.

torchvision's needs the objects of an image before it can be trained, as it draws the proposals that it looks at by them. Here it looks at
the ``PROPOSALS`` likeliest proposals of an image in training as in evaluation, so that the model needs nothing but images.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from visionlora.backbone.maps import Neck, OverMaps, is_narrow
from visionlora.backbone.one_stage import CHANNELS, RATIOS, anchors_of

PROPOSALS, CANDIDATES = 300, 1000
"""Of an image: proposals that are looked at, as many as in the paper's evaluation, and anchors of each map that they are chosen from."""
HIDDEN = (1024, 256)
"""Numbers that describe a proposal: torchvision's, and over a narrow backbone."""
PLACES = 7
"""A side of the patch of features that is cut out for a proposal."""
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
        rpn._pre_nms_top_n = {"training": CANDIDATES, "testing": CANDIDATES}
        rpn._post_nms_top_n = {"training": PROPOSALS, "testing": PROPOSALS}
        self.rpn, self.roi_heads = rpn, roi_heads

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, S, S) -> (N, rows, 1 + 4 + 5 classes + 1)``."""
        maps, side = self.maps(images), images.shape[-1]
        objectness, regression = self.rpn.head(maps)
        counts = [one[0].numel() for one in objectness]
        logits, boxes = concat_box_prediction_layers(objectness, regression)
        anchors = anchors_of(self.rpn.anchor_generator, images, maps).expand(len(images), -1, -1)
        said = torch.cat([anchors, boxes.view(anchors.shape), logits.view(len(images), -1, 1)], dim=2)
        proposals, there = self._proposals(said.detach().float(), counts, side)
        found = self._looked_at(maps, proposals, side)
        rows = torch.cat([there[..., None].to(found.dtype), proposals / side, found], dim=2)
        return torch.cat([rows, packed(said, rows.shape[2]).to(rows.dtype)], dim=1)

    @torch.no_grad()
    def _proposals(self, said: Tensor, counts: list[int], side: int) -> tuple[Tensor, Tensor]:
        """The likeliest boxes of an image that do not lie over each other, in pixels ``(N, PROPOSALS, 4)``, and what each row is."""
        anchors = said[..., :4].flatten(0, 1) * side
        boxes = self.rpn.box_coder.decode_single(said[..., 4:8].flatten(0, 1), anchors).view(len(said), -1, 4)
        chosen, _ = self.rpn.filter_proposals(boxes, said[..., 8], [(side, side)] * len(said), counts)
        found, there = boxes.new_zeros(len(said), PROPOSALS, 4), boxes.new_full((len(said), PROPOSALS), NOTHING)
        for image, own in enumerate(chosen):
            place = (own @ own.new_tensor(ORDER)).argsort()
            found[image, : len(own)], there[image, : len(own)] = own[place], PROPOSAL
        return found, there

    def _looked_at(self, maps: list[Tensor], proposals: Tensor, side: int) -> Tensor:
        """What is said of the proposals, float32 ``(N, PROPOSALS, 5 classes + 1)``; the last map is for proposals alone."""
        named = {str(place): one.float() for place, one in enumerate(maps[:-1])}
        heads: Any = self.roi_heads
        patches = heads.box_roi_pool(named, list(proposals), [(side, side)] * len(proposals))
        logits, regression = heads.box_predictor(heads.box_head(patches.to(maps[0].dtype)))
        return torch.cat([logits, regression[:, 4:]], dim=1).float().view(len(proposals), PROPOSALS, -1)  # no box of the background


def packed(said: Tensor, columns: int) -> Tensor:
    """What is said of anchors ``(N, anchors, OF_ANCHOR)`` as rows of so many columns, the first of which is ``PACKED``."""
    each = (columns - 1) // OF_ANCHOR
    whole = functional.pad(said, (0, 0, 0, -said.shape[1] % each)).reshape(len(said), -1, each * OF_ANCHOR)
    return functional.pad(whole, (1, columns - 1 - each * OF_ANCHOR), value=PACKED)


def unpacked(rows: Tensor) -> Tensor:
    """The anchors of ``packed`` rows again, ``(N, anchors, OF_ANCHOR)``; those that are nothing but zeros among them."""
    each = (rows.shape[2] - 1) // OF_ANCHOR
    return rows[..., 1 : 1 + each * OF_ANCHOR].reshape(len(rows), -1, OF_ANCHOR)


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
        box_roi_pool=MultiScaleRoIAlign([str(place) for place in range(len(steps))], PLACES, 2),
        box_head=TwoMLPHead(width * PLACES**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
    )
    return TwoStage(backbone, Neck(channels, width), theirs.rpn, theirs.roi_heads)


def of_torchvision(model: FasterRCNN) -> TwoStage:
    """torchvision's own Faster R-CNN as a model that gives one tensor."""
    return TwoStage(model.backbone, nn.Identity(), cast(Any, model.rpn), cast(Any, model.roi_heads))

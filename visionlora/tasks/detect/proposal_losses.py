"""Losses of Faster R-CNN: torchvision's own, without the objects themselves among the proposals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from visionlora.tasks.detect.said import UNITS as UNITS_OF_BOXES
from visionlora.tasks.detect.said import Said

Wanted = list[dict[str, Tensor]]
"""The ``boxes`` and ``labels`` of each image."""


def proposal_losses(said: Said, wanted: Wanted, units: float) -> dict[str, Tensor]:
    """Of what is proposed, and of what is said of the proposals.

    Args:
        said: by Faster R-CNN.
        wanted: what there is, of classes from 1, before which is the background.
        units: of the side, in which the boxes of ``wanted`` are.
    """
    return _of_anchors(said, wanted, units) | _of_proposals(said, wanted, units)


def _of_anchors(said: Said, wanted: Wanted, units: float) -> dict[str, Tensor]:
    """As in ``RegionProposalNetwork.forward``."""
    rpn: Any = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    assert said.proposing is not None
    real = said.proposing[0, :, 2] > said.proposing[0, :, 0]  # the last row has room for more
    proposing = said.proposing[:, real]
    anchors = list(proposing[..., :4].detach() * units)
    labels, boxes = rpn.assign_targets_to_anchors(anchors, wanted)
    regression = rpn.box_coder.encode(boxes, anchors)
    objectness, box = rpn.compute_loss(proposing[..., 8].flatten(), proposing[..., 4:8].reshape(-1, 4), labels, regression)
    return {"objectness": objectness, "proposal_box": box}


def _of_proposals(said: Said, wanted: Wanted, units: float) -> dict[str, Tensor]:
    """As in ``RoIHeads.forward``."""
    heads: Any = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, UNITS_OF_BOXES, 0.05, 0.5, 100)
    assert said.there is not None
    with_some = [place for place, there in enumerate(said.there) if there.any()]
    if not with_some:
        return {"classes": said.logits.sum() * 0, "box": said.regression.sum() * 0}
    rows = [said.there[place].nonzero().flatten() for place in with_some]
    proposals = [said.anchors[place, own].detach() * units for place, own in zip(with_some, rows, strict=True)]
    true = [wanted[place]["boxes"] for place in with_some]
    matched, labels = heads.assign_targets_to_proposals(proposals, true, [wanted[place]["labels"] for place in with_some])
    drawn = heads.subsample(labels)
    logits, regression, kinds, boxes = [], [], [], []
    for place, own, picked in zip(range(len(rows)), rows, drawn, strict=True):
        image = with_some[place]
        logits.append(said.logits[image, own[picked]])
        regression.append(functional.pad(said.regression[image, own[picked]].flatten(1), (4, 0)))  # no box of the background
        kinds.append(labels[place][picked])
        objects = true[place] if len(true[place]) else torch.zeros(1, 4, device=own.device)
        boxes.append((objects[matched[place][picked]], proposals[place][picked]))
    aims = heads.box_coder.encode([one for one, _ in boxes], [one for _, one in boxes])
    classes, box = fastrcnn_loss(torch.cat(logits), torch.cat(regression), kinds, list(aims))
    return {"classes": classes, "box": box}

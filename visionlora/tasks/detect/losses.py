"""Losses of detectors: torchvision's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from visionlora.tasks.detect.mask_losses import mask_losses
from visionlora.tasks.detect.proposal_losses import Wanted, proposal_losses
from visionlora.tasks.detect.said import UNITS as UNITS_OF_BOXES
from visionlora.tasks.detect.said import Said

UNITS = 1024.0
"""Of a side, in which losses are reckoned: torchvision's matching is made for pixels."""


def detection_loss(outputs: Tensor, targets: Tensor, classes: int, seed: int | None = None) -> Tensor:
    """The sum of the losses of a detector.

    Args:
        outputs: ``(N, rows, columns)``, see ``Said``.
        targets: ``(N, objects, 5)``: class and box, class -1 for none; ``OF_TRUE`` columns more, where they have masks.
        classes: how many there are.
        seed: of what Faster R-CNN draws, so that the same outputs have the same loss; by default torch's random state.
    """
    said = Said.of(outputs, classes)
    wanted = [{"boxes": one[one[:, 0] >= 0, 1:5] * UNITS, "labels": one[one[:, 0] >= 0, 0].long()} for one in targets]
    found = LOSSES[said.kind](said, wanted) if said.kind in LOSSES else _of_proposals(said, wanted, seed)
    if said.masks is not None:
        found |= mask_losses(said, targets, UNITS)
    return torch.stack(list(found.values())).sum()


def _of_retinanet(said: Said, wanted: Wanted) -> dict[str, Tensor]:
    outputs = {"cls_logits": said.logits, "bbox_regression": said.regression}
    return RetinaNet.compute_loss(_retinanet(), wanted, outputs, _anchors(said))  # type: ignore[no-any-return]


def _of_fcos(said: Said, wanted: Wanted) -> dict[str, Tensor]:
    outputs = {"cls_logits": said.logits, "bbox_regression": said.regression, "bbox_ctrness": said.centreness}
    anchors = _anchors(said)
    return FCOS.compute_loss(_fcos(), wanted, outputs, anchors, _levels(anchors[0]))  # type: ignore[no-any-return]


def _of_ssd(said: Said, wanted: Wanted) -> dict[str, Tensor]:
    outputs = {"cls_logits": said.logits, "bbox_regression": said.regression}
    anchors, matcher = _anchors(said), detection.SSDMatcher(0.5)
    matched = [
        matcher(box_iou(one["boxes"], own)) if len(one["boxes"]) else torch.full((len(own),), -1, device=own.device)
        for one, own in zip(wanted, anchors, strict=True)
    ]
    ssd: Any = SimpleNamespace(box_coder=detection.BoxCoder(UNITS_OF_BOXES), neg_to_pos_ratio=3.0)
    return SSD.compute_loss(ssd, _after_background(wanted), outputs, anchors, matched)  # type: ignore[no-any-return]


def _of_proposals(said: Said, wanted: Wanted, seed: int | None) -> dict[str, Tensor]:
    if seed is None:
        return proposal_losses(said, _after_background(wanted), UNITS)
    devices = [said.logits.device] if said.logits.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return proposal_losses(said, _after_background(wanted), UNITS)


LOSSES = {"retinanet": _of_retinanet, "fcos": _of_fcos, "ssd": _of_ssd}
"""Of the detectors in one stage, which draw nothing at random."""


def _after_background(wanted: Wanted) -> Wanted:
    """The same with classes from 1, before which is the background."""
    return [{"boxes": one["boxes"], "labels": one["labels"] + 1} for one in wanted]


def _anchors(said: Said) -> list[Tensor]:
    return list(said.anchors.detach() * UNITS)


def _levels(anchors: Tensor) -> list[int]:
    """Anchors of each map: those of one map are of one size."""
    sizes = ((anchors[:, 2] - anchors[:, 0]) * 16).round()
    return [int(count) for count in torch.unique_consecutive(sizes, return_counts=True)[1]]


def _fcos() -> Any:
    """What ``FCOS.compute_loss`` asks of its model."""
    head = SimpleNamespace(box_coder=detection.BoxLinearCoder(normalize_by_size=True))
    head.compute_loss = lambda *arguments: FCOSHead.compute_loss(head, *arguments)
    return SimpleNamespace(center_sampling_radius=1.5, head=head)


def _retinanet() -> Any:
    """What ``RetinaNet.compute_loss`` asks of its model."""
    classification = SimpleNamespace(BETWEEN_THRESHOLDS=detection.Matcher.BETWEEN_THRESHOLDS)
    classification.compute_loss = lambda *arguments: RetinaNetClassificationHead.compute_loss(classification, *arguments)
    regression = SimpleNamespace(box_coder=detection.BoxCoder((1.0, 1.0, 1.0, 1.0)), _loss_type="l1")
    regression.compute_loss = lambda *arguments: RetinaNetRegressionHead.compute_loss(regression, *arguments)
    head = SimpleNamespace(classification_head=classification, regression_head=regression)
    head.compute_loss = lambda *arguments: RetinaNetHead.compute_loss(head, *arguments)
    return SimpleNamespace(proposal_matcher=detection.Matcher(0.5, 0.4, allow_low_quality_matches=True), head=head)

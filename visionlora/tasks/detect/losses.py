"""Losses of detectors: torchvision's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead

from visionlora.tasks.detect.layout import Said

UNITS = 1024.0
"""Of a side, in which losses are reckoned: torchvision's matching is made for pixels."""


def detection_loss(outputs: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The sum of the losses of a detector.

    Args:
        outputs: ``(N, A, columns)`` of a ``Detector``.
        targets: ``(N, objects, 5)``: class and box, class -1 for none.
        classes: how many there are.
    """
    said = Said.of(outputs, classes)
    wanted = [{"boxes": one[one[:, 0] >= 0, 1:] * UNITS, "labels": one[one[:, 0] >= 0, 0].long()} for one in targets]
    anchors = list(said.anchors.detach() * UNITS)
    found: dict[str, Tensor]
    if said.centreness is None:
        found = RetinaNet.compute_loss(_retinanet(), wanted, _outputs(said), anchors)
    else:
        found = FCOS.compute_loss(_fcos(), wanted, _outputs(said), anchors, _levels(anchors[0]))
    return torch.stack(list(found.values())).sum()


def _outputs(said: Said) -> dict[str, Tensor]:
    found = {"cls_logits": said.logits, "bbox_regression": said.regression}
    return found if said.centreness is None else found | {"bbox_ctrness": said.centreness}


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

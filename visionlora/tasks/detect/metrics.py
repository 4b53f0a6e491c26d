"""What is logged of boxes: COCO's average precision, by torchmetrics."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.wrappers.abstract import WrapperMetric

from visionlora.common.errors import UserError
from visionlora.tasks.detect.layout import COLUMNS, detections
from visionlora.tasks.detect.masks import pasted, side_of_view, true_masks

UNITS = 1000.0
"""Of a side, in which boxes are compared."""


def average_precision(each_class: bool = False, of: Literal["bbox", "segm"] = "bbox") -> Any:
    """torchmetrics' metric over faster-coco-eval, of boxes (``bbox``) or masks (``segm``).

    Raises:
        UserError: that is not installed.
    """
    try:
        metric = MeanAveragePrecision(iou_type=of, backend="faster_coco_eval", class_metrics=each_class)
    except ModuleNotFoundError:
        raise UserError("COCO's average precision needs faster-coco-eval: pip install 'visionlora[vision]'.") from None
    metric.warn_on_many_detections = False
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it tells every step of every evaluation
    return metric


def as_coco(outputs: Tensor, targets: Tensor, classes: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """What is found and what is true, as torchmetrics takes them."""
    found, true = [], []
    for one in detections(outputs, classes):
        one = one[one[:, 0] >= 0]
        found.append({"boxes": one[:, 2:6] * UNITS, "scores": one[:, 1], "labels": one[:, 0].long()})
    for one in targets:
        one = one[one[:, 0] >= 0]
        true.append({"boxes": one[:, 1:5] * UNITS, "labels": one[:, 0].long()})
    return found, true


def masks_as_coco(outputs: Tensor, targets: Tensor, classes: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The masks that are found and those that are true, in the pixels of the view, as torchmetrics takes them."""
    found, true, side = [], [], side_of_view(targets[..., 5:])
    for one in detections(outputs, classes):
        one = one[one[:, 0] >= 0].cpu()
        found.append({"masks": pasted(one[:, COLUMNS:], side, (side, side)), "scores": one[:, 1], "labels": one[:, 0].long()})
    for one in targets:
        one = one[one[:, 0] >= 0].cpu()
        true.append({"masks": true_masks(one[:, 5:], one[:, 1:5], side), "labels": one[:, 0].long()})
    return found, true


class OfBoxes(WrapperMetric):
    """``map`` (mean over intersections over union of 0.5 to 0.95) and ``map50`` of a detector's outputs; 0 where there are no objects.

    Args:
        classes: of the task.
        masks: with ``mask_map`` and ``mask_map50``, the same of the masks.
    """

    def __init__(self, classes: int, masks: bool = False) -> None:
        super().__init__()
        self.classes, self.metric = classes, average_precision()
        self.of_masks = average_precision(of="segm") if masks else None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found = detections(outputs, self.classes)
        self.metric.update(*as_coco(found, targets, self.classes))
        if self.of_masks is not None:
            self.of_masks.update(*masks_as_coco(found, targets, self.classes))

    def compute(self) -> dict[str, Tensor]:
        metrics = {"": self.metric} if self.of_masks is None else {"": self.metric, "mask_": self.of_masks}
        computed = {kind: metric.compute() for kind, metric in metrics.items()}
        return {
            f"{kind}{key}": torch.clamp(found[theirs], min=0)
            for kind, found in computed.items()
            for key, theirs in (("map", "map"), ("map50", "map_50"))
        }

    def reset(self) -> None:
        self.metric.reset()
        if self.of_masks is not None:
            self.of_masks.reset()
        super().reset()

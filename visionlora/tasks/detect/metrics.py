"""What is logged of boxes: COCO's average precision, by torchmetrics."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.wrappers.abstract import WrapperMetric

from visionlora.common.errors import UserError
from visionlora.tasks.detect.layout import detections

UNITS = 1000.0
"""Of a side, in which boxes are compared."""


def average_precision(each_class: bool = False) -> Any:
    """torchmetrics' metric over faster-coco-eval.

    Raises:
        UserError: that is not installed.
    """
    try:
        metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=each_class)
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
        found.append({"boxes": one[:, 2:] * UNITS, "scores": one[:, 1], "labels": one[:, 0].long()})
    for one in targets:
        one = one[one[:, 0] >= 0]
        true.append({"boxes": one[:, 1:] * UNITS, "labels": one[:, 0].long()})
    return found, true


class OfBoxes(WrapperMetric):
    """``map`` (mean over intersections over union of 0.5 to 0.95) and ``map50`` of a detector's outputs; 0 where there are no objects.

    Args:
        classes: of the task.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.metric = classes, average_precision()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(*as_coco(outputs, targets, self.classes))

    def compute(self) -> dict[str, Tensor]:
        found = self.metric.compute()
        return {"map": torch.clamp(found["map"], min=0), "map50": torch.clamp(found["map_50"], min=0)}

    def reset(self) -> None:
        self.metric.reset()
        super().reset()

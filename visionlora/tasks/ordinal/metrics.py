"""What is logged of ranks: torchmetrics' own, of the predicted rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCohenKappa
from torchmetrics.wrappers.abstract import WrapperMetric

from visionlora.tasks.ordinal.ranks import ranks


def metrics(classes: int) -> dict[str, Metric]:
    """Mean absolute error in ranks, accuracy, and quadratic weighted kappa (Cohen 1968), which is 0 where it is not defined."""
    return {
        "mae": OfRanks(MeanAbsoluteError(), as_numbers=True),
        "accuracy": OfRanks(MulticlassAccuracy(classes, average="micro")),
        "qwk": OfRanks(MulticlassCohenKappa(classes, weights="quadratic")),
    }


class OfRanks(WrapperMetric):
    """A metric of the predicted class.

    Args:
        metric: of classes.
        as_numbers: whether it takes them as numbers.
    """

    def __init__(self, metric: Metric, as_numbers: bool = False) -> None:
        super().__init__()
        self.metric, self.as_numbers = metric, as_numbers

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found = ranks(outputs)
        self.metric.update(*((found.float(), targets.float()) if self.as_numbers else (found, targets)))

    def compute(self) -> Any:
        return torch.nan_to_num(self.metric.compute())

    def reset(self) -> None:
        self.metric.reset()
        super().reset()

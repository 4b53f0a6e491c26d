"""What is logged of numbers, in the user's units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score
from torchmetrics.wrappers.abstract import WrapperMetric

if TYPE_CHECKING:
    from visionlora.tasks.regression.task import Regression


def metrics(task: Regression) -> dict[str, Metric]:
    """Mean absolute error, root mean squared error and R², over all outputs together (R²: the mean over them); torchmetrics' own."""
    return {
        "mae": InUnits(MeanAbsoluteError(), task),
        "rmse": InUnits(MeanSquaredError(squared=False), task),
        "r2": InUnits(R2Score(), task),
    }


class InUnits(WrapperMetric):
    """A metric of outputs that are in the user's units, as the targets are."""

    def __init__(self, metric: Metric, task: Regression) -> None:
        super().__init__()
        self.metric, self.task, self.images = metric, task, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.images += len(targets)
        found = self.task.in_units(outputs)
        if targets.shape[1] == 1:  # R² of one column wants a vector
            found, targets = found[:, 0], targets[:, 0]
        self.metric.update(found.contiguous(), targets.contiguous())

    def compute(self) -> Any:
        if isinstance(self.metric, R2Score) and self.images < 2:
            return torch.zeros(())  # of one image it is not defined
        return self.metric.compute()

    def reset(self) -> None:
        self.images = 0
        self.metric.reset()
        super().reset()

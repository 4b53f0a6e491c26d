"""The mean of the training images, whatever the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from visionlora.tasks.regression.task import Regression


class Means:
    """Predicts the mean of the scaled numbers that it has been shown.

    Args:
        task: that scales them.
    """

    def __init__(self, task: Regression) -> None:
        self.task = task
        self.sums: Tensor | None = None
        self.means = torch.zeros(0)

    def learn(self, features: Tensor, targets: Tensor) -> None:
        """Take in the ``targets (N, outputs)``."""
        scaled = self.task.scaled(targets)
        found = torch.cat([scaled.sum(0), scaled.new_tensor([len(scaled)])])
        self.sums = found if self.sums is None else self.sums + found

    def totals(self) -> Tensor | None:
        """The sum for each output, and the number of images: ``(outputs + 1,)``."""
        return self.sums

    def settle(self, totals: Tensor) -> None:
        """Take the means from sums over all processes."""
        self.means = totals[:-1] / totals[-1]

    def predict(self, features: Tensor) -> Tensor:
        """The means for each of ``features (N, D)``."""
        return self.means.to(features.device).expand(len(features), -1)

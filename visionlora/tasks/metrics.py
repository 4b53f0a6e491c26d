"""The metrics of a validation or a test: the mean loss and torchmetrics' metrics, the task's and those that a user adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from visionlora.common.errors import UserError
from visionlora.tasks.task import Loss, Task

Metrics: TypeAlias = Metric | MetricCollection | Mapping[str, Metric]
"""What a user can add: one metric, known by the name of its class, or several by name."""


def _by_name(metrics: Metrics | None) -> dict[str, Metric]:
    if metrics is None:
        return {}
    if isinstance(metrics, MetricCollection):
        found: dict[str, Any] = dict(metrics.items(keep_base=False, copy_state=False))
    elif isinstance(metrics, Metric):
        found = {type(metrics).__name__: metrics}
    elif isinstance(metrics, Mapping):
        found = dict(metrics)
    else:
        raise UserError(f"metrics is a {type(metrics).__name__}; give a mapping from names to torchmetrics' metrics, as in {{'auroc': …}}.")
    for name, metric in found.items():
        if not isinstance(metric, Metric):
            raise UserError(f"metrics: {name!r} is a {type(metric).__name__}, and not a torchmetrics.Metric.")
        if not isinstance(name, str) or not name or "." in name or name == "loss":
            raise UserError(f"metrics: {name!r} cannot be the name of a metric: it is a text without dots, and not 'loss', which is there.")
    return found


def one_number(loss: Any) -> Tensor:
    """``loss`` itself.

    Raises:
        UserError: it is not one number, so that it can neither be trained on nor averaged.
    """
    if not isinstance(loss, Tensor):
        raise UserError(f"the loss gave a {type(loss).__name__}; it must give a tensor that holds one number.")
    if loss.ndim:
        raise UserError(f"the loss gave a tensor of shape {tuple(loss.shape)}; it must give one number, as with reduction='mean'.")
    return loss


class Evaluation(nn.Module):
    """Metrics and mean loss of one part of the data.

    Args:
        task: whose metrics they are.
        part: begins the names under which they are logged.
        loss: the mean of it over a batch is averaged over all; by default the task's.
        metrics: beside the task's, copied; one of the same name takes the place of the task's.

    Raises:
        UserError: something in ``metrics`` is not a metric, or has a name that it cannot have.
    """

    def __init__(self, task: Task, part: str, loss: Loss | None = None, metrics: Metrics | None = None) -> None:
        super().__init__()
        own = task.metrics() | {name: metric.clone() for name, metric in _by_name(metrics).items()}
        # No compute groups: they are found by comparing states after the first batch, where two metrics may be equal by chance.
        self.metrics = MetricCollection(own, prefix=f"{part}/", compute_groups=False)  # type: ignore[arg-type]
        self.loss, self.part = MeanMetric(), part
        self.criterion: Loss = task.criterion() if loss is None else loss

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in ``outputs (N, ...)`` and ``targets (N, ...)``."""
        outputs = outputs.float()
        self.loss.update(one_number(self.criterion(outputs, targets)), weight=len(targets))
        self.metrics.update(outputs, targets)

    def compute(self) -> dict[str, Tensor]:
        """Over all processes; starts afresh afterwards.

        Raises:
            UserError: a metric that was added gives more than one number.
        """
        values: dict[str, Tensor] = {**self.metrics.compute(), f"{self.part}/loss": self.loss.compute()}
        with torch.inference_mode(False):  # what is made in trainer.validate could not be added to in a trainer.fit after it
            self.metrics.reset()
            self.loss.reset()
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise UserError(
                    f"metrics: {name} is {shape}, and only single numbers can be logged; give it average='macro', or"
                    " wrap it in torchmetrics.ClasswiseWrapper."
                )
        return values

"""The figures of a validation or a test: the mean loss and torchmetrics' metrics, ours and those that a user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from visionlora.common.errors import UserError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(logits (N, classes), labels (N,)) -> `` one number, as ``torch.nn.functional.cross_entropy`` gives."""
Metrics: TypeAlias = Metric | MetricCollection | Mapping[str, Metric]
"""What a user can add: one metric, known by the name of its class, or several by name."""


def classification_metrics(num_classes: int, prefix: str, more: Metrics | None = None) -> MetricCollection:
    """Top-1, macro F1, and top-5 where there are more than five classes; torchmetrics' own.

    Args:
        num_classes: number of logits.
        prefix: begins the name under which each is logged.
        more: metrics beside ours, copied; one of the same name takes the place of ours.

    Raises:
        UserError: something in ``more`` is not a metric, or has a name that it cannot have.
    """
    metrics: dict[str, Metric] = {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "f1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    metrics |= {name: metric.clone() for name, metric in _by_name(more).items()}
    # No compute groups: they are found by comparing states after the first batch, and where that is all right top-1 equals top-5.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]


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
        num_classes: number of logits.
        part: begins the names of the figures.
        loss: the mean of it over a batch is averaged over all; by default cross-entropy.
        metrics: beside ours, see ``classification_metrics``.
    """

    def __init__(self, num_classes: int, part: str, loss: Loss | None = None, metrics: Metrics | None = None) -> None:
        super().__init__()
        self.metrics = classification_metrics(num_classes, f"{part}/", metrics)
        self.loss, self.part = MeanMetric(), part
        self.criterion: Loss = nn.functional.cross_entropy if loss is None else loss

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in ``logits (N, classes)`` and ``labels (N,)``."""
        logits = logits.float()
        self.loss.update(one_number(self.criterion(logits, labels)), weight=len(labels))
        self.metrics.update(logits, labels)

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

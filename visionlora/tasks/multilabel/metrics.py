"""What is logged of several labels an image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelExactMatch, MultilabelF1Score
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.wrappers.abstract import WrapperMetric

if TYPE_CHECKING:
    from visionlora.tasks.multilabel.task import Multilabel


def metrics(task: Multilabel) -> dict[str, Metric]:
    """Mean average precision over the labels that some image has, macro and micro F1, and the share of images with all labels right;
    torchmetrics' own.
    """
    return {
        "map": AveragePrecision(task.outputs),
        "f1": Above(MultilabelF1Score(task.outputs, average="macro"), task),
        "f1_micro": Above(MultilabelF1Score(task.outputs, average="micro"), task),
        "all_right": Above(MultilabelExactMatch(task.outputs), task),
    }


class AveragePrecision(MultilabelAveragePrecision):
    """The mean over the labels that some image of the part has; torchmetrics' own counts the others as 0."""

    def __init__(self, labels: int) -> None:
        super().__init__(labels, average="none")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs, (targets > 0.5).long())

    def compute(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels without images, at each validation
            precisions: Any = super().compute()
        present = dim_zero_cat(self.target).bool().any(0)
        return precisions[present].mean() if present.any() else precisions.new_zeros(())


class Above(WrapperMetric):
    """A metric of which labels are above the task's thresholds, as they are at that moment."""

    def __init__(self, metric: Metric, task: Multilabel) -> None:
        super().__init__()
        self.metric, self.task = metric, task

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        there = outputs.sigmoid() >= self.task.limits_of().to(outputs.device)
        self.metric.update(there.long(), (targets > 0.5).long())

    def compute(self) -> Any:
        return self.metric.compute()

    def reset(self) -> None:
        self.metric.reset()
        super().reset()

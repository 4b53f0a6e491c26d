"""Two kinds of work that are no classification: how bright an image is, and which colours are in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

import visionlora as vl


@dataclass(frozen=True)
class Numbers:
    """What is predicted for one image: a number for each name."""

    path: str
    values: tuple[tuple[str, float | None], ...]  # None for an image that cannot be read
    error: str = ""

    def row(self, most: int) -> dict[str, Any]:
        return dict(self.values)

    def cells(self) -> tuple[str, ...]:
        return (self.brief().replace(", ", "\n"),)

    def brief(self) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in self.values)


class FloatTargets:
    """Sees that targets are numbers, as many an image as the model has outputs."""

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def of(self, batch: Any, part: str) -> Tensor:
        targets: Tensor = batch[1]
        if targets.ndim != 2 or targets.shape[1] != self.outputs:
            raise vl.UserError(f"the labels of a {part} batch are {tuple(targets.shape)}; they must be (N, {self.outputs}).")
        return targets.float()

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        return outputs

    def tell(self, part: str) -> None:
        pass


class Several(vl.Task):
    """What both have in common: a row of numbers an image."""

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), -1)

    def targets(self) -> FloatTargets:
        return FloatTargets(self.outputs)

    def unreadable(self, name: str, why: str) -> Numbers:
        return Numbers(name, tuple((output, None) for output in self.names), why)

    def _numbers(self, names: Sequence[str], rows: Tensor) -> list[Any]:
        return [Numbers(name, tuple(zip(self.names, row, strict=True))) for name, row in zip(names, rows.tolist(), strict=True)]


@dataclass
class BrightnessOptions:
    """``task.delta``: the error up to which Huber's loss is a square."""

    delta: float = 1.0


class MeanOfAll:
    """The baseline: the mean of what was seen, whatever the image."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.mean = torch.zeros(())

    def learn(self, features: Tensor, targets: Tensor) -> None:
        now = torch.stack([targets.sum(), torch.tensor(float(targets.numel()))])
        self.sums = now if self.sums is None else self.sums + now

    def totals(self) -> Tensor | None:
        return self.sums

    def settle(self, totals: Tensor) -> None:
        self.mean = totals[0] / totals[1]

    def predict(self, features: Tensor) -> Tensor:
        return self.mean.expand(len(features), 1)


class Brightness(Several):
    """One number an image; less error is better."""

    name = "brightness"
    measures = (vl.Measure("mae", "mean absolute error", share=False, higher=False),)
    loss_words = "Huber loss"
    baseline_words = "the mean"
    columns = ("brightness",)
    Options = BrightnessOptions

    def criterion(self, smoothing: float = 0.0) -> Any:
        return nn.HuberLoss(delta=self.options.delta)

    def metrics(self) -> dict[str, torchmetrics.Metric]:
        return {"mae": torchmetrics.MeanAbsoluteError()}

    def baseline(self) -> MeanOfAll:
        return MeanOfAll()

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import Ridge

        fitted = Ridge().fit(features, targets)
        return np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        return self._numbers(names, outputs)


class Colours(Several):
    """Several labels an image, each there or not; there is no baseline."""

    name = "colours"
    measures = (vl.Measure("all_right", "images with all labels right"), vl.Measure("f1", "macro F1"))
    loss_words = "binary cross-entropy"
    columns = ("colours",)

    def criterion(self, smoothing: float = 0.0) -> Any:
        return nn.BCEWithLogitsLoss()

    def metrics(self) -> dict[str, torchmetrics.Metric]:
        return {"all_right": _Whole(MultilabelExactMatch(self.outputs)), "f1": _Whole(MultilabelF1Score(self.outputs))}

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        return self._numbers(names, outputs.sigmoid())


class _Whole(torchmetrics.wrappers.abstract.WrapperMetric):
    """A metric that wants whole numbers, of targets that are floating-point for the loss."""

    def __init__(self, metric: torchmetrics.Metric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(outputs, targets.long())

    def compute(self) -> Any:
        return self.metric.compute()

    def reset(self) -> None:
        self.metric.reset()
        super().reset()

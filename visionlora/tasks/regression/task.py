"""One or several numbers an image."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visionlora.common.config import one_of
from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import in_brackets
from visionlora.tasks.cells import Cells
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.regression.prediction import Numbers
from visionlora.tasks.task import Loss, Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.tasks.regression.baseline import Means
    from visionlora.tasks.regression.outcome import RegressionOutcome
    from visionlora.tasks.vectors import VectorTargets


@dataclass
class RegressionOptions:
    """The section ``task``.

    Args:
        loss: of training: ``huber``, ``l1`` or ``mse``, of numbers scaled by ``center`` and ``scale``.
        log: the logarithm of the numbers plus one is learned, for numbers from 0 up whose errors grow with them.
        low: no prediction is below it.
        high: no prediction is above it.
        center: what is taken from each number before it is learned; null: the mean of the training part.
        scale: what each number is divided by then; null: the standard deviation of the training part.
    """

    loss: str = "huber"
    log: bool = False
    low: float | None = None
    high: float | None = None
    center: list[float] | None = None
    scale: list[float] | None = None

    def __post_init__(self) -> None:
        one_of("task.loss", self.loss, ("huber", "l1", "mse"))
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"task.low={self.low} must be below task.high={self.high}.")
        if self.scale is not None and not all(value > 0 for value in self.scale):
            raise UserError(f"task.scale={self.scale} must be above 0.")


class Regression(Task):
    """Every image has a number for each output. The model learns them scaled; what is measured and told is in the user's units."""

    name = "regression"
    measures = (
        Measure("mae", "mean absolute error", "MAE", share=False, higher=False),
        Measure("rmse", "root mean squared error", "RMSE", share=False, higher=False),
        Measure("r2", "R²", share=False, hub="r_squared"),
        Measure("mae_low", "mean absolute error, 95% interval from", share=False, higher=False, spread=False),
        Measure("mae_high", "mean absolute error, 95% interval to", share=False, higher=False, spread=False),
    )
    loss_words = "loss of the scaled numbers"
    baseline_words = "the mean of the training images"
    output_words = ("number", "numbers")
    hub = "image-feature-extraction"
    columns = ("prediction",)
    whole_view = True
    Options = RegressionOptions

    def __init__(self, names: Sequence[str], options: Any = None) -> None:
        super().__init__(names, options)
        for key in ("center", "scale"):
            known = getattr(self.options, key)
            if known is not None and names and len(known) != len(names):
                raise UserError(f"task.{key} has {len(known)} values for {len(names)} numbers an image.")

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        from visionlora.tasks.regression.reading import numbers_of

        return numbers_of(cells)

    def as_cells(self, label: Any) -> dict[str, Any]:
        return dict(zip(self.names, label, strict=True))

    def look_at(self, labels: Sequence[Any]) -> None:
        import numpy as np

        if labels and isinstance(labels[0], int):
            raise UserError("task=regression learns numbers, and the data has classes; a table has numbers: data=table data.root=FILE.csv.")
        numbers = np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)
        if self.options.log:
            if numbers.min() < 0:
                raise UserError(f"task.log=true is for numbers from 0 up; one of the training part is {numbers.min():g}.")
            numbers = np.log1p(numbers)
        for name, constant in zip(self.names, numbers.min(0) == numbers.max(0), strict=False):
            if constant and not process_rank():
                print(f"{name!r} is the same in all {len(labels):,} training images: there is nothing to learn.", file=sys.stderr)
        if self.options.center is None:
            self.options.center = [float(f"{value:.8g}") for value in numbers.mean(0)]
        if self.options.scale is None:
            self.options.scale = [float(f"{value:.8g}") or 1.0 for value in numbers.std(0)]

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        from visionlora.tasks.vectors import as_rows

        return as_rows(labels)

    def targets(self) -> VectorTargets:
        from visionlora.tasks.vectors import VectorTargets

        return VectorTargets(self.outputs, "finite numbers")

    def scaled(self, targets: Tensor) -> Tensor:
        """Numbers ``(N, outputs)`` in the user's units as the model learns them."""
        center, scale = self._scaling(targets)
        return ((targets.log1p() if self.options.log else targets) - center) / scale

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs ``(N, outputs)`` of the model in the user's units, within ``low`` and ``high``."""
        center, scale = self._scaling(outputs)
        found = outputs.float() * scale + center
        found = found.expm1() if self.options.log else found
        low, high = self.options.low, self.options.high
        return found if low is None and high is None else found.clamp(low, high)

    def _scaling(self, like: Tensor) -> tuple[Tensor, Tensor]:
        ones = like.new_ones(self.outputs, dtype=like.dtype if like.dtype.itemsize >= 4 else None)
        center, scale = self.options.center or [0.0] * self.outputs, self.options.scale or [1.0] * self.outputs
        return ones.new_tensor(center).float(), ones.new_tensor(scale).float()

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from torch.nn import functional

        kinds: dict[str, Loss] = {"huber": functional.smooth_l1_loss, "l1": functional.l1_loss, "mse": functional.mse_loss}
        loss = kinds[self.options.loss]
        return functools.partial(self._loss_of, loss)  # which can be sent to another process

    def _loss_of(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(outputs, self.scaled(targets))

    def soft(self, targets: Tensor) -> Tensor:
        return targets

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.regression.metrics import metrics

        return metrics(self)

    def baseline(self) -> Means:
        from visionlora.tasks.regression.baseline import Means

        return Means(self)

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from visionlora.tasks.regression.probe import ridge

        return ridge(features, self.scaled(torch.from_numpy(targets)).numpy())

    def looked_at(self, outputs: Tensor) -> Tensor:
        return outputs.sum()  # of all numbers, in units of their spread

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        return [Numbers(name, tuple(self.names), tuple(row)) for name, row in zip(names, self.in_units(outputs).tolist(), strict=True)]

    def unreadable(self, name: str, why: str) -> Numbers:
        return Numbers(name, tuple(self.names), error=why)

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> RegressionOutcome:
        from visionlora.tasks.regression.outcome import RegressionOutcome

        return RegressionOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        return f"A model that estimates {outputs} number{'s' * (outputs > 1)} of an image{in_brackets(names)}"

    @classmethod
    def limits(cls) -> str:
        return "It was trained on numbers of a range, and says nothing sensible of images beyond it."

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        if not named:
            return ["print(logits[0])  # scaled as in training"]
        return [
            f'with open("{file}", encoding="utf-8") as file:',
            "    known = json.load(file)",
            '    task = known.get("task", {})',
            'numbers = logits[0] * np.array(task.get("scale", 1.0)) + np.array(task.get("center", 0.0))',
            'numbers = np.expm1(numbers) if task.get("log") else numbers',
            'numbers = np.clip(numbers, task.get("low"), task.get("high")) if "low" in task or "high" in task else numbers',
            'print(dict(zip(known["classes"], numbers.tolist())))',
        ]

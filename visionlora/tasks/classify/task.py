"""One class an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.common.config import at_least, one_of
from visionlora.common.errors import UserError
from visionlora.common.text import in_brackets
from visionlora.tasks.cells import Cells
from visionlora.tasks.classify import conclusion
from visionlora.tasks.classify.prediction import Prediction
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.one_class import OneClass
from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.tasks.classify.baseline import ClassMeans
    from visionlora.tasks.classify.outcome import ClassifyOutcome

IMBALANCED = 5
"""Images of the largest class, by those of the smallest, from which balanced accuracy leads."""


@dataclass
class ClassifyOptions:
    """The section ``task``.

    Args:
        loss: of training; ``focal`` (Lin et al. 2017, arXiv 1708.02002, §3) makes less of images that are right already.
        gamma: exponent of the focal loss.
    """

    loss: str = "cross_entropy"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        one_of("task.loss", self.loss, ("cross_entropy", "focal"))
        at_least("task.gamma", self.gamma, 0)


class Classify(OneClass):
    """Every image is of one class; the model gives a logit for each."""

    name = "classify"
    measures = (
        Measure("top1", "top-1 accuracy", "top-1", hub="accuracy"),
        Measure("top5", "top-5 accuracy", "top-5"),
        Measure("balanced", "balanced accuracy", "balanced"),
        Measure("f1", "macro F1", hub="f1"),
        Measure("f1_weighted", "weighted F1", spread=False),
        Measure("ece", "calibration error", higher=False),
        Measure("ece_scaled", "calibration error, with the temperature", higher=False, spread=False),
        Measure("top1_low", "top-1 accuracy, 95% interval from", spread=False),
        Measure("top1_high", "top-1 accuracy, 95% interval to", spread=False),
    )
    loss_words = "cross-entropy"
    classifies = True
    calibrates = True
    balances = ("weights", "sampler", "logit_adjustment")
    Options = ClassifyOptions

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        from visionlora.tasks.classify.reading import classes_of

        return classes_of(cells)

    def check_names(self, source: str) -> None:
        if len(self.names) < 2:
            raise UserError(f"{source} has one class only ({self.names[0]!r}); a classifier needs two.")

    def of_folder(self, path: Path) -> str | None:
        called = "/".join(path.parent.parts[-1 - self.names[0].count("/") :])  # of class folders of several levels
        return called if called in self.names else None

    def leading(self) -> Measure:
        return next(measure for measure in self.measures if measure.key == "balanced") if self.imbalanced else self.lead()

    @property
    def imbalanced(self) -> bool:
        """Whether classes differ in size so much that top-1 is mostly the largest one's."""
        seen = [count for count in self.counts or () if count]
        return bool(seen) and max(seen) >= IMBALANCED * min(seen)

    def soft(self, targets: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.one_hot(targets, self.outputs).float()

    @property
    def means_images(self) -> bool:
        return self.balance != "weights"  # else it is divided by the weights that the batch happens to have

    def training_criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.classify.losses import training_loss

        return training_loss(self.options, smoothing, self.balance, self.counts)

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from torch import nn

        return nn.CrossEntropyLoss(label_smoothing=smoothing)

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.classify.metrics import metrics

        if self.outputs < 2:
            raise UserError("the model has one output, and a classifier needs two classes; one number an image is task=regression.")
        return metrics(self.outputs)

    def baseline(self) -> ClassMeans:
        from visionlora.tasks.classify.baseline import ClassMeans

        return ClassMeans(self.outputs)

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from visionlora.tasks.classify.probe import logistic_regression

        return logistic_regression(features, targets, self.outputs)

    def start_of_head(
        self, weight: np.ndarray, bias: np.ndarray, features: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from visionlora.tasks.classify.probe import softened

        share = softened(features @ weight.T + bias, targets)
        return weight * share, bias * share

    def compared(self, results: Mapping[str, Any]) -> tuple[bool, str]:
        return conclusion.compared(self, results)

    def doubts(self, results: Mapping[str, Any]) -> str:
        return conclusion.doubts(results)

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        best = outputs.softmax(-1).topk(min(most, self.outputs))
        found = zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(name, tuple(self.names[i] for i in indices), tuple(values)) for name, indices, values in found]

    def averaged(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1).mean(0).log().clamp(min=-100)  # of probabilities: a view that is sure counts no more than one

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> ClassifyOutcome:
        from visionlora.tasks.classify.outcome import ClassifyOutcome

        return ClassifyOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        if not names:
            return f"An image classifier of {outputs} classes, whose names are not recorded"
        return f"An image classifier of {outputs} classes{in_brackets(names)}"

    @classmethod
    def limits(cls) -> str:
        return "It knows its classes and no others: an image of something else gets one of them, often with confidence."

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        read = [f'with open("{file}", encoding="utf-8") as file:', '    classes = json.load(file)["classes"]']
        return [
            *(read if named else []),
            "probabilities = np.exp(logits[0] - logits[0].max())",
            "probabilities /= probabilities.sum()",
            "best = int(probabilities.argmax())",
            f'print({"classes[best]" if named else "best"}, f"{{probabilities[best]:.4f}}")',
        ]

"""Several labels an image, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visionlora.common.config import at_least, one_of
from visionlora.common.errors import UserError
from visionlora.common.text import in_brackets
from visionlora.tasks.cells import Cells
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.multilabel.prediction import Labelled
from visionlora.tasks.task import Loss, Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.tasks.multilabel.baseline import LabelMeans
    from visionlora.tasks.multilabel.outcome import MultilabelOutcome
    from visionlora.tasks.vectors import VectorTargets

THRESHOLDS = ("one", "each", "half")


@dataclass
class MultilabelOptions:
    """The section ``task``.

    Args:
        loss: of training: ``bce``, ``focal`` (Lin et al. 2017, arXiv 1708.02002, §3) or ``asymmetric`` (Ridnik et al. 2021, arXiv
            2009.14119).
        gamma: exponent of the focal loss, and of the asymmetric one for labels that are not there.
        threshold: ``one`` threshold for all labels, or ``each`` its own, that makes F1 highest on images that were not trained on;
            ``half`` for 0.5.
        thresholds: the thresholds themselves; null until they are chosen.
    """

    loss: str = "bce"
    gamma: float = 2.0
    threshold: str = "one"
    thresholds: list[float] | None = None

    def __post_init__(self) -> None:
        one_of("task.loss", self.loss, ("bce", "focal", "asymmetric"))
        one_of("task.threshold", self.threshold, THRESHOLDS)
        at_least("task.gamma", self.gamma, 0)
        if self.thresholds is not None and not all(0 <= value <= 1 for value in self.thresholds):
            raise UserError(f"task.thresholds={self.thresholds} must be between 0 and 1.")


class Multilabel(Task):
    """Every image has any number of labels; the model gives a logit for each."""

    name = "multilabel"
    measures = (
        Measure("map", "mean average precision", "mAP"),
        Measure("f1", "macro F1"),
        Measure("f1_micro", "micro F1"),
        Measure("all_right", "images with all labels right", "all right", spread=False),
        Measure("map_low", "mean average precision, 95% interval from", spread=False),
        Measure("map_high", "mean average precision, 95% interval to", spread=False),
    )
    loss_words = "binary cross-entropy"
    baseline_words = "nearest label mean on the untouched backbone"
    output_words = ("label", "labels")
    group_words = ("label", "labels")
    settled = ("thresholds",)
    hub = "image-classification"
    columns = ("labels", "probability")
    balances = ("weights",)
    whole_view = True
    Options = MultilabelOptions

    def __init__(self, names: Sequence[str], options: Any = None) -> None:
        super().__init__(names, options)
        known = self.options.thresholds
        if known is not None and names and len(known) not in (1, len(names)):
            raise UserError(f"task.thresholds has {len(known)} values for {len(names)} labels; give one, or one a label.")
        self.positives: list[int] | None = None  # training images that have each label
        self.seen = 0  # training images

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        from visionlora.tasks.multilabel.reading import labels_of

        return labels_of(cells)

    def as_cells(self, label: Any) -> dict[str, Any]:
        return {"labels": [self.names[number] for number in ([label] if isinstance(label, int) else label)]}

    def check_names(self, source: str) -> None:
        if not self.names:
            raise UserError(f"{source} has no labels at all: not one image of the training part has one.")
        if len(self.names) == 1:
            raise UserError(
                f"{source} has one label, {self.names[0]!r}, and task=multilabel wants several; for one, give every image a class (with it"
                " or without) and take task=classify."
            )

    def look_at(self, labels: Sequence[Any]) -> None:
        rows = [self._row(label) for label in labels]
        self.seen, self.positives = len(rows), [int(sum(column)) for column in zip(*rows, strict=True)]

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        from visionlora.tasks.vectors import as_rows

        return as_rows([self._row(label) for label in labels])

    def _row(self, label: Any) -> list[float]:
        """A label as it is kept, the numbers of those that are there, as a number for each output. A single number is a class, as class
        folders have it.
        """
        there = {label} if isinstance(label, int) else set(label)
        return [float(number in there) for number in range(self.outputs)]

    def in_words(self, label: Any) -> str:
        return ", ".join(self.names[number] for number in ([label] if isinstance(label, int) else label)) or "none"

    def targets(self) -> VectorTargets:
        from visionlora.tasks.vectors import VectorTargets

        return VectorTargets(self.outputs, "1 where a label is there and 0 where it is not", shares=True)

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from torch import nn

        return nn.BCEWithLogitsLoss()

    def training_criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.multilabel.losses import training_loss

        counts = self.positives if self.balance == "weights" else None
        return training_loss(self.options, smoothing, counts, self.seen)

    def soft(self, targets: Tensor) -> Tensor:
        return targets

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.multilabel.metrics import metrics

        return metrics(self)

    def limits_of(self) -> Tensor:
        """The threshold of each label, ``(outputs,)``: 0.5 until others are chosen."""
        import torch

        return torch.tensor(self.options.thresholds or [0.5]).expand(self.outputs)

    def settle(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        from visionlora.tasks.multilabel.thresholds import best_thresholds

        if self.options.threshold == "half" or self.options.thresholds is not None:
            return {}
        return {"thresholds": best_thresholds(outputs.sigmoid().numpy(), targets.numpy() > 0.5, each=self.options.threshold == "each")}

    def baseline(self) -> LabelMeans:
        from visionlora.tasks.multilabel.baseline import LabelMeans

        return LabelMeans(self.outputs)

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from visionlora.tasks.multilabel.probe import one_against_all

        return one_against_all(features, targets > 0.5)

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        found, limits = outputs.sigmoid(), self.limits_of()
        return [
            Labelled(name, tuple(self.names), tuple(row), tuple(there))
            for name, row, there in zip(names, found.tolist(), (found >= limits).tolist(), strict=True)
        ]

    def averaged(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid().mean(0).logit(eps=1e-7)

    def unreadable(self, name: str, why: str) -> Labelled:
        return Labelled(name, tuple(self.names), error=why)

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> MultilabelOutcome:
        from visionlora.tasks.multilabel.outcome import MultilabelOutcome

        return MultilabelOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        return f"A model that gives an image any of {outputs} labels{in_brackets(names)}"

    @classmethod
    def limits(cls) -> str:
        return (
            "It knows its labels and no others. Thresholds above which a label is given were chosen on images like those of its training."
        )

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        read = [
            f'with open("{file}", encoding="utf-8") as file:',
            "    known = json.load(file)",
            'labels, thresholds = known["classes"], known.get("task", {}).get("thresholds", 0.5)',
        ]
        return [
            *(read if named else ["thresholds = 0.5"]),
            "probabilities = 1 / (1 + np.exp(-logits[0]))",
            "for number in np.flatnonzero(probabilities >= np.array(thresholds)):",
            f'    print({"labels[number]" if named else "number"}, f"{{probabilities[number]:.4f}}")',
        ]

"""A model's logits for one part of the data, and what they are worth."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from visionlora.common.errors import UserError
from visionlora.data.images import Pictures, Unreadable, left_out
from visionlora.data.module import ImageData
from visionlora.runs.predictor import Predictor
from visionlora.tasks.metrics import Evaluation

ALL_CLASSES = 100
"""Classes up to which the rows of an evaluation have the probability of each."""
BINS = 15
"""Of the calibration error and the reliability diagram (Guo et al. 2017, arXiv 1706.04599, §2)."""


@dataclass(frozen=True)
class Outcome:
    """Logits for one part of the data.

    Args:
        split: name of the part.
        logits: float32 ``(N, classes)``.
        labels: int64 ``(N,)``.
        classes: their names.
        pictures: the pictures themselves, in the same order.
        seconds: the forward passes took, data aside.
        unreadable: pictures that could not be read, and why; they are none of those above.
    """

    split: str
    logits: Tensor
    labels: Tensor
    classes: list[str]
    pictures: Pictures
    seconds: float = 0.0
    unreadable: Unreadable = field(default_factory=dict)

    @cached_property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def right(self) -> np.ndarray:
        """Which pictures the likeliest class is right for, ``(N,)``."""
        return np.asarray((self.logits.argmax(-1) == self.labels).numpy())

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(-1).numpy()

    def metrics(self) -> dict[str, float]:
        """``SPLIT/top1``, ``/top1_low`` and ``/top1_high`` (95 %, bootstrap), ``/top5``, ``/f1``, ``/f1_weighted``, ``/loss``, ``/ece``,
        ``/unreadable``.
        """
        evaluation = Evaluation(len(self.classes), self.split)
        evaluation.update(self.logits, self.labels)
        found = {key: float(value) for key, value in evaluation.compute().items()}
        low, high = self.interval()
        report = self.report()
        return found | {
            f"{self.split}/top1_low": low,
            f"{self.split}/top1_high": high,
            f"{self.split}/f1_weighted": float(report["weighted avg"]["f1-score"]),
            f"{self.split}/ece": self.calibration_error(),
            f"{self.split}/unreadable": len(self.unreadable),
        }

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the accuracy: percentiles of 2,000 draws of the pictures.

        Draws with replacement of pictures that are right or wrong: their right ones are binomial.
        """
        n = len(self.right)
        draws = np.random.default_rng(0).binomial(n, self.right.mean(), 2000) / n
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def report(self) -> dict[str, Any]:
        """scikit-learn's classification report: precision, recall, F1 and support of each class, macro and weighted averages."""
        numbers = list(range(len(self.classes)))
        return classification_report(  # type: ignore[no-any-return]
            self.labels.numpy(), self.predicted, labels=numbers, target_names=self.classes, output_dict=True, zero_division=0.0
        )

    def confusion(self) -> np.ndarray:
        """Pictures by true class (rows) and predicted class (columns)."""
        return np.asarray(confusion_matrix(self.labels.numpy(), self.predicted, labels=list(range(len(self.classes)))))

    def confused(self, most: int = 5) -> list[tuple[int, int, int]]:
        """The pairs confused most: true class, predicted class, how often."""
        table = self.confusion()
        np.fill_diagonal(table, 0)
        order = np.argsort(table, axis=None)[::-1][:most]
        rows, columns = np.unravel_index(order, table.shape)
        return [(int(r), int(c), int(table[r, c])) for r, c in zip(rows, columns, strict=True) if table[r, c]]

    def most_wrong(self, most: int = 24) -> list[int]:
        """Indices of the wrong pictures, those it was surest of first."""
        sure = self.probabilities.max(-1).values.numpy()
        wrong = np.flatnonzero(~self.right)
        return [int(i) for i in wrong[np.argsort(-sure[wrong])][:most]]

    def rows(self) -> list[dict[str, Any]]:
        """A row an image: ``file``, ``true``, ``predicted``, ``probability`` of the predicted class, ``probability_of_true``, and
        ``probability of CLASS`` for each class where there are at most ``ALL_CLASSES``.

        An image that could not be read has its ``file`` and its ``error``.
        """
        files = [str(path) for path in self.pictures.paths] or self.pictures.names
        labels, taken = self.labels.tolist(), self.predicted.tolist()
        found = []
        for index, probabilities in enumerate(self.probabilities.tolist()):
            row = {"file": files[index], "true": self.classes[labels[index]], "predicted": self.classes[taken[index]]}
            row |= {"probability": round(probabilities[taken[index]], 6), "probability_of_true": round(probabilities[labels[index]], 6)}
            if len(self.classes) <= ALL_CLASSES:
                row |= {f"probability of {name}": round(p, 6) for name, p in zip(self.classes, probabilities, strict=True)}
            found.append(row)
        return found + [{"file": name, "error": why} for name, why in self.unreadable.items()]

    def calibration_error(self) -> float:
        """Expected calibration error: how far confidence is from accuracy (torchmetrics, L1, ``BINS`` bins)."""
        return float(multiclass_calibration_error(self.probabilities, self.labels, len(self.classes), n_bins=BINS, norm="l1"))

    def scaled(self, temperature: float) -> Outcome:
        """The same with logits divided by ``temperature``."""
        return replace(self, logits=self.logits / temperature)


def outcome(predictor: Predictor, data: ImageData, split: str) -> Outcome:
    """Run the model over one part of the data.

    Args:
        predictor: a model in eval mode.
        data: prepared for it.
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: the data has no such part, or none of its pictures can be read.
    """
    if split not in data.parts:
        raise UserError(f"the run's data has no {split} part; it has {', '.join(data.parts)}.")
    device = next(predictor.model.parameters()).device
    logits, labels, seconds = [], [], 0.0
    for images, targets in data.eval_dataloader(split):
        prepared, _ = data.on_after_batch_transfer((images.to(device), targets), 0)
        started = time.perf_counter()
        with torch.inference_mode():
            logits.append(predictor.model(prepared).float().cpu())
        seconds += time.perf_counter() - started
        labels.append(torch.as_tensor(targets))
    unreadable = data.unreadable_in(split)
    if not logits:
        raise UserError(f"none of the {len(unreadable)} pictures of the {split} part can be read: {left_out(unreadable)}.")
    return Outcome(split, torch.cat(logits).clone(), torch.cat(labels), data.classes, data.readable(split), seconds, unreadable)


def temperature_of(validation: Outcome) -> float:
    """The temperature that makes validation logits likeliest (Guo et al. 2017, arXiv 1706.04599, §4.2)."""

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(validation.logits / float(np.exp(log_temperature)), validation.labels))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def mcnemar(one: Outcome, other: Outcome) -> float:
    """p of the exact McNemar test that both are right equally often on these pictures (1 where they never differ)."""
    first, second = int((one.right & ~other.right).sum()), int((~one.right & other.right).sum())
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0

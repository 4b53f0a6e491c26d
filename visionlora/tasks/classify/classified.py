"""A classifier's logits for one part of the data, and what they are worth."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from visionlora.tasks.classify.levels import levels_of, right_at
from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.outcome import PlainOutcome

ALL_CLASSES = 100
"""Classes up to which the rows of an evaluation have the probability of each."""
BINS = 15
"""Of the calibration error and the reliability diagram (Guo et al. 2017, arXiv 1706.04599, §2)."""


class Classified(PlainOutcome):
    """Logits ``(N, classes)`` and classes ``(N,)``, and what can be reckoned from them."""

    tests = "The interval is a bootstrap over the images, p an exact McNemar test."

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return self.task.names

    @cached_property
    def probabilities(self) -> Tensor:
        """``(N, classes)``."""
        return self.outputs.softmax(-1)

    @cached_property
    def right(self) -> np.ndarray:
        """Which images the likeliest class is right for, ``(N,)``."""
        return np.asarray((self.outputs.argmax(-1) == self.targets).numpy())

    @cached_property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each image, ``(N,)``."""
        return self.outputs.argmax(-1).numpy()

    def metrics(self) -> dict[str, float]:
        """The logged ones, ``SPLIT/top1_low`` and ``/top1_high`` (95 %, bootstrap), ``/f1_weighted``, ``/ece`` and ``/unreadable``."""
        found = super().metrics()
        unreadable = found.pop(f"{self.split}/unreadable")
        low, high = self.interval()
        return found | {
            f"{self.split}/top1_low": low,
            f"{self.split}/top1_high": high,
            f"{self.split}/f1_weighted": float(self.report()["weighted avg"]["f1-score"]),
            f"{self.split}/ece": self.calibration_error(),
            f"{self.split}/unreadable": unreadable,
        }

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the accuracy: percentiles of 2,000 draws of the images.

        Draws with replacement of images that are right or wrong: their right ones are binomial.
        """
        n = len(self.right)
        draws = np.random.default_rng(0).binomial(n, self.right.mean(), 2000) / n
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def report(self) -> dict[str, Any]:
        """scikit-learn's classification report: precision, recall, F1 and support of each class, macro and weighted averages."""
        numbers = list(range(len(self.classes)))
        return classification_report(  # type: ignore[no-any-return]
            self.targets.numpy(), self.predicted, labels=numbers, target_names=self.classes, output_dict=True, zero_division=0.0
        )

    def confusion(self) -> np.ndarray:
        """Images by true class (rows) and predicted class (columns)."""
        return np.asarray(confusion_matrix(self.targets.numpy(), self.predicted, labels=list(range(len(self.classes)))))

    def confused(self, most: int = 5) -> list[tuple[int, int, int]]:
        """The pairs confused most: true class, predicted class, how often."""
        table = self.confusion()
        np.fill_diagonal(table, 0)
        order = np.argsort(table, axis=None)[::-1][:most]
        rows, columns = np.unravel_index(order, table.shape)
        return [(int(r), int(c), int(table[r, c])) for r, c in zip(rows, columns, strict=True) if table[r, c]]

    def most_wrong(self, most: int = 24) -> list[int]:
        """Indices of the wrong images, those it was surest of first."""
        sure = self.probabilities.max(-1).values.numpy()
        wrong = np.flatnonzero(~self.right)
        return [int(i) for i in wrong[np.argsort(-sure[wrong])][:most]]

    def row(self, index: int) -> dict[str, Any]:
        """``true``, ``predicted``, ``probability`` of the predicted class, ``probability_of_true``, and ``probability of CLASS`` for each
        class where there are at most ``ALL_CLASSES``.
        """
        true, taken, probabilities = int(self.targets[index]), int(self.predicted[index]), self.probabilities[index].tolist()
        row: dict[str, Any] = {"true": self.classes[true], "predicted": self.classes[taken]}
        row |= {"probability": round(probabilities[taken], 6), "probability_of_true": round(probabilities[true], 6)}
        if len(self.classes) <= ALL_CLASSES:
            row |= {f"probability of {name}": round(p, 6) for name, p in zip(self.classes, probabilities, strict=True)}
        return row

    def levels(self) -> list[dict[str, float]]:
        """Of classes within others (``animal/cat``), for each level from the widest to the class: how many names it has, and the accuracy;
        a level's name has the probability of all its classes together.
        """
        levels = levels_of(self.classes)
        return [
            {"classes": len(set(called)), "top1": float(right_at(self.probabilities, self.targets, called).float().mean())}
            for called in levels
        ]

    def details(self) -> dict[str, Any]:
        """``classes.json``: the report; ``levels.json`` where classes are within others."""
        levels = self.levels()
        return {"classes.json": self.report()} | ({"levels.json": levels} if levels else {})

    def calibrated(self, validation: Outcome) -> dict[str, float]:
        """``temperature``, the one that fits the validation part best, and the calibration error with it."""
        assert isinstance(validation, Classified)
        temperature = temperature_of(validation)
        return {"temperature": temperature, f"{self.split}/ece_scaled": self.scaled(temperature).calibration_error()}

    def p_against(self, other: Outcome) -> float:
        """p of the exact McNemar test that both are right equally often on these images (1 where they never differ)."""
        assert isinstance(other, Classified)
        first, second = int((self.right & ~other.right).sum()), int((~self.right & other.right).sum())
        return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0

    def calibration_error(self) -> float:
        """Expected calibration error: how far confidence is from accuracy (torchmetrics, L1, ``BINS`` bins)."""
        return float(multiclass_calibration_error(self.probabilities, self.targets, len(self.classes), n_bins=BINS, norm="l1"))

    def scaled(self, temperature: float) -> Classified:
        """The same with logits divided by ``temperature``."""
        return replace(self, outputs=self.outputs / temperature)


def temperature_of(validation: Classified) -> float:
    """The temperature that makes validation logits likeliest (Guo et al. 2017, arXiv 1706.04599, §4.2)."""

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(validation.outputs / float(np.exp(log_temperature)), validation.targets))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))

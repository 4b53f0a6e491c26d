"""Logits of several labels an image for one part of the data, and what they are worth."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import stats
from sklearn.metrics import average_precision_score, classification_report

from visionlora.common.console import console
from visionlora.common.drawing import short
from visionlora.tasks.gallery import SHOWN, page
from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.multilabel import plots
from visionlora.tasks.outcome import PlainOutcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 200
"""Of the bootstrap."""
SHOWN_LABELS = 30


class MultilabelOutcome(PlainOutcome):
    """Logits ``(N, labels)``, targets ``(N, labels)``, and what can be reckoned from them."""

    tests = "The interval is a bootstrap over the images, p a paired t-test of the images' binary cross-entropy."

    @cached_property
    def probabilities(self) -> np.ndarray:
        """``(N, labels)``."""
        return np.asarray(self.outputs.sigmoid().numpy())

    @cached_property
    def there(self) -> np.ndarray:
        """Which labels each image has, ``(N, labels)``."""
        return np.asarray(self.targets.numpy() > 0.5)

    @cached_property
    def given(self) -> np.ndarray:
        """Which labels the model gives, ``(N, labels)``."""
        return self.probabilities >= self.task.limits_of().numpy()  # type: ignore[attr-defined, no-any-return]

    @cached_property
    def losses(self) -> np.ndarray:
        """Binary cross-entropy of each image, ``(N,)``."""
        from torch.nn import functional

        found = functional.binary_cross_entropy_with_logits(self.outputs, self.targets.float(), reduction="none")
        return np.asarray(found.mean(1).numpy())

    def metrics(self) -> dict[str, float]:
        """The logged ones, ``SPLIT/map_low`` and ``/map_high``, and ``/unreadable``."""
        found = super().metrics()
        unreadable = found.pop(f"{self.split}/unreadable")
        low, high = self.interval()
        return found | {f"{self.split}/map_low": low, f"{self.split}/map_high": high, f"{self.split}/unreadable": unreadable}

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean average precision: percentiles of ``DRAWS`` draws of the images."""
        rows = np.random.default_rng(0).integers(0, len(self.there), (DRAWS, len(self.there)))
        draws = [_mean_precision(self.there[drawn], self.probabilities[drawn]) for drawn in rows]
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def p_against(self, other: Outcome) -> float:
        assert isinstance(other, MultilabelOutcome)
        differences = self.losses - other.losses
        return float(stats.ttest_1samp(differences, 0.0).pvalue) if len(differences) > 1 and differences.any() else 1.0

    def report(self) -> dict[str, Any]:
        """scikit-learn's report: precision, recall, F1 and support of each label and on average; beside it ``average-precision`` and
        ``threshold``.
        """
        names = self.task.names
        found: dict[str, Any] = classification_report(
            self.there, self.given, labels=list(range(len(names))), target_names=names, output_dict=True, zero_division=0.0
        )
        limits = self.task.limits_of().tolist()  # type: ignore[attr-defined]
        for number, name in enumerate(names):
            truth = self.there[:, number]
            found[name]["average-precision"] = float(average_precision_score(truth, self.probabilities[:, number])) if truth.any() else None
            found[name]["threshold"] = limits[number]
        return found

    def row(self, index: int) -> dict[str, Any]:
        """``true``, ``labels`` with ``|`` between them, ``wrong`` (how many), ``probability of LABEL``."""
        names = self.task.names
        said = {
            key: "|".join(name for name, yes in zip(names, of[index], strict=True) if yes)
            for key, of in (("true", self.there), ("labels", self.given))
        }
        wrong = int((self.there[index] != self.given[index]).sum())
        shares = {f"probability of {name}": round(float(p), 6) for name, p in zip(names, self.probabilities[index], strict=True)}
        return said | {"wrong": wrong} | shares

    def details(self) -> dict[str, Any]:
        """``labels.json``: the report."""
        return {"labels.json": self.report()}

    def plots(self) -> dict[str, Figure | None]:
        """``precision_recall`` of each label and, where something is wrong, ``most_wrong``."""
        return {"precision_recall": plots.precision_recall(self), "most_wrong": plots.most_wrong(self) if self.most_wrong() else None}

    def most_wrong(self, most: int = 24) -> list[int]:
        """Indices of the images with a wrong label, those of the highest loss first."""
        wrong = np.flatnonzero((self.there != self.given).any(1))
        return [int(i) for i in wrong[np.argsort(-self.losses[wrong])][:most]]

    def page(self) -> str | None:
        """A section for each label, with images that lack it or have it too many; the surest mistakes first."""
        chosen = self.most_wrong(SHOWN)
        if not chosen:
            return None
        sections: dict[str, list[tuple[int, str]]] = {}
        for number, name in enumerate(self.task.names):
            for what, missing in (("missed", True), ("given where it is not", False)):
                rows = [i for i in chosen if self.there[i, number] == missing and self.given[i, number] != missing]
                if rows:
                    rows.sort(key=lambda i: self.probabilities[i, number], reverse=not missing)
                    words = [f"{self.probabilities[i, number]:.0%}; has {self.words(i)}" for i in rows]
                    sections[f"{name}: {what} ({len(rows)})"] = list(zip(rows, words, strict=True))
        wrong = int((self.there != self.given).any(1).sum())
        note = f"{wrong:,} of {len(self.there):,} images have a label too many or too few."
        return page(self.split, note, self.images, sections)

    def words(self, index: int) -> str:
        """The labels that an image has."""
        return ", ".join(short(name, 16) for name, yes in zip(self.task.names, self.there[index], strict=True) if yes) or "none"

    def tell(self) -> None:
        """Print precision, recall, F1 and average precision of the labels."""
        report, names = self.report(), self.task.names
        shown = names if len(names) <= SHOWN_LABELS else sorted(names, key=lambda name: report[name]["f1-score"])[:SHOWN_LABELS]
        table = Table(title="Labels" if len(shown) == len(names) else f"The {SHOWN_LABELS} labels with the lowest F1", title_justify="left")
        for column in ("label", "precision", "recall", "F1", "average precision", "threshold", "images"):
            table.add_column(column, justify="left" if column == "label" else "right")
        for name in shown:
            row = report[name]
            precision = "" if row["average-precision"] is None else f"{row['average-precision']:.1%}"
            shares = (f"{row[key]:.1%}" for key in ("precision", "recall", "f1-score"))
            table.add_row(escape(name), *shares, precision, f"{row['threshold']:.2f}", f"{row['support']:.0f}")
        console.print(table)


def _mean_precision(there: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the labels that some image has of the average precision (its step-wise sum, as torchmetrics has it)."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    right = np.take_along_axis(there, order, axis=0)
    precision = right.cumsum(0) / np.arange(1, len(there) + 1)[:, None]
    counts = right.sum(0)
    return float(((precision * right).sum(0)[counts > 0] / counts[counts > 0]).mean()) if counts.any() else 0.0

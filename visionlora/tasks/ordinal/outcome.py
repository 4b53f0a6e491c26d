"""A model's ranks for one part of the data, and what they are worth."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import confusion_matrix
from torch import Tensor

from visionlora.common.console import console
from visionlora.tasks.absolute_errors import AbsoluteErrors
from visionlora.tasks.gallery import SHOWN, page
from visionlora.tasks.ordinal import plots
from visionlora.tasks.ordinal.ranks import probabilities, ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_CLASSES = 100
"""Classes up to which a row has the probability of each."""


class OrdinalOutcome(AbsoluteErrors):
    """Outputs ``(N, classes)`` and classes ``(N,)``, and what can be reckoned from them."""

    tests = "The interval is a bootstrap over the images, p a paired t-test of the images' absolute errors."

    @cached_property
    def probabilities(self) -> Tensor:
        """Of each class, ``(N, classes)``."""
        return probabilities(self.outputs)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class of each image, ``(N,)``."""
        return ranks(self.outputs).numpy()

    @cached_property
    def true(self) -> np.ndarray:
        """The true class of each image, ``(N,)``."""
        return self.targets.numpy()

    @cached_property
    def errors(self) -> np.ndarray:
        """Absolute error of each image in ranks, ``(N,)``."""
        return np.asarray(np.abs(self.predicted - self.true), np.float64)

    def confusion(self) -> np.ndarray:
        """Images by true class (rows) and predicted class (columns)."""
        return np.asarray(confusion_matrix(self.true, self.predicted, labels=list(range(len(self.task.names)))))

    def row(self, index: int) -> dict[str, Any]:
        """``true``, ``predicted``, ``error`` in ranks with its sign, ``probability of CLASS`` for at most ``ALL_CLASSES``."""
        true, found, names = int(self.true[index]), int(self.predicted[index]), self.task.names
        row: dict[str, Any] = {"true": names[true], "predicted": names[found], "error": found - true}
        if len(names) <= ALL_CLASSES:
            row |= {f"probability of {name}": round(p, 6) for name, p in zip(names, self.probabilities[index].tolist(), strict=True)}
        return row

    def report(self) -> dict[str, dict[str, float]]:
        """Of the images of each class: how many, the share that is right and that is off by one at most, mean absolute and mean error."""
        table = {}
        for number, name in enumerate(self.task.names):
            of_class = self.true == number
            off = (self.predicted - self.true)[of_class]
            if len(off):
                errors = np.abs(off)
                shares = {"accuracy": float((errors == 0).mean()), "within_one": float((errors <= 1).mean())}
                table[name] = {"images": int(of_class.sum()), **shares, "mae": float(errors.mean()), "mean_error": float(off.mean())}
        return table

    def details(self) -> dict[str, Any]:
        """``classes.json``: the report."""
        return {"classes.json": self.report()}

    def plots(self) -> dict[str, Figure | None]:
        """``confusion``, and the images that are ``most_wrong``."""
        return {"confusion": plots.confusion(self), "most_wrong": plots.most_wrong(self)}

    def most_wrong(self, most: int = 24) -> list[int]:
        """Indices of the wrong images, the farthest off first; of equally far ones those whose true class was the least likely."""
        likely = self.probabilities.gather(1, self.targets[:, None])[:, 0].numpy()
        return [int(i) for i in np.lexsort((likely, -self.errors))[:most] if self.errors[i] > 0]

    def words(self, index: int) -> str:
        """What an image is, and what it is taken for."""
        return f"is {self.task.names[self.true[index]]}, taken for {self.task.names[self.predicted[index]]}"

    def page(self) -> str | None:
        """The wrong images by how many ranks they are off; ``None`` where nothing is wrong."""
        chosen = self.most_wrong(SHOWN)
        if not chosen:
            return None
        wrong = int((self.errors > 0).sum())
        sections: dict[str, list[tuple[int, str]]] = {}
        for index in chosen:
            off = int(self.errors[index])
            sections.setdefault(f"Off by {off} rank{'s' * (off > 1)}", []).append((index, self.words(index)))
        note = f"{wrong:,} of {len(self.errors):,} images are taken for another class; the farthest off come first."
        return page(self.split, note, self.images, sections)

    def tell(self) -> None:
        """Print the errors of the images of each class."""
        table = Table(title="Classes", title_justify="left")
        for column in ("class", "images", "right", "within one rank", "mean absolute error", "mean error"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, row in self.report().items():
            shares = (f"{row['accuracy']:.1%}", f"{row['within_one']:.1%}")
            table.add_row(escape(name), f"{row['images']:,}", *shares, f"{row['mae']:.2f}", f"{row['mean_error']:+.2f}")
        console.print(table)

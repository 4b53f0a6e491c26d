"""A model's masks for one part of the data, and what they are worth."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from visionlora.common.console import console
from visionlora.tasks.drawn import DrawnOutcome
from visionlora.tasks.gallery import page
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.segment import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 48
"""Images on the page."""


class SegmentOutcome(DrawnOutcome):
    """Classes of the pixels ``(N, H, W)``, or outputs ``(N, classes, H, W)``, and masks ``(N, H, W)``; both of the prepared images."""

    @cached_property
    def maps(self) -> Tensor:
        """Index of the class of each pixel, ``(N, H, W)``."""
        return self.outputs.argmax(1) if self.outputs.ndim == 4 else self.outputs.long()

    @cached_property
    def confusions(self) -> np.ndarray:
        """Of each image, how many pixels of one class are taken for another: ``(N, true, predicted)``."""
        classes = len(self.task.names)
        rows = [
            multiclass_confusion_matrix(found, true.long(), classes, ignore_index=IGNORED)
            for found, true in zip(self.maps, self.targets, strict=True)
        ]
        return torch.stack(rows).numpy().astype(np.float64)

    def metrics(self) -> dict[str, float]:
        """``SPLIT/miou``, ``/pixel_accuracy``, ``/dice``, the interval of the first, and ``/unreadable``."""
        whole = self.confusions.sum(0)
        right, either = np.diagonal(whole), whole.sum(0) + whole.sum(1)
        there = either > 0
        low, high = self.interval()
        return {
            f"{self.split}/miou": miou(whole),
            f"{self.split}/pixel_accuracy": float(right.sum() / max(whole.sum(), 1)),
            f"{self.split}/dice": float((2 * right[there] / either[there]).mean()) if there.any() else 0.0,
            f"{self.split}/miou_low": low,
            f"{self.split}/miou_high": high,
            f"{self.split}/unreadable": len(self.unreadable),
        }

    def of_draw(self, times: np.ndarray) -> float:
        """Mean intersection over union where image ``i`` is there ``times[i]`` times."""
        return miou(np.tensordot(times, self.confusions, 1))

    @cached_property
    def of_images(self) -> np.ndarray:
        """Mean IoU of each image, over the classes that are in it or predicted, ``(N,)``."""
        return np.array([miou(confusion) for confusion in self.confusions])

    def row(self, index: int) -> dict[str, Any]:
        """Mean IoU and share of right pixels of an image."""
        confusion = self.confusions[index]
        return {"miou": float(self.of_images[index]), "pixel_accuracy": float(np.trace(confusion) / max(confusion.sum(), 1))}

    def report(self) -> dict[str, dict[str, float]]:
        """Intersection over union, Dice and share of the pixels of each class."""
        whole = self.confusions.sum(0)
        right, either = np.diagonal(whole), whole.sum(0) + whole.sum(1)
        return {
            name: {
                "iou": float(right[k] / max(either[k] - right[k], 1)),
                "dice": float(2 * right[k] / max(either[k], 1)),
                "share": float(whole[k].sum() / max(whole.sum(), 1)),
            }
            for k, name in enumerate(self.task.names)
        }

    def details(self) -> dict[str, Any]:
        """``classes.json``: the report; ``confusion.json``: pixels of each class by what they are taken for."""
        return {
            "classes.json": self.report(),
            "confusion.json": {"classes": self.task.names, "pixels": self.confusions.sum(0).astype(int).tolist()},
        }

    def plots(self) -> dict[str, Figure | None]:
        """``classes``: IoU of each; ``worst`` and ``best`` images with their masks."""
        order = np.argsort(self.of_images, kind="stable")
        count = min(plots.SHOWN, len(order))
        return {
            "classes": plots.classes(self),
            "worst": plots.masks(self, order[:count].tolist()),
            "best": plots.masks(self, order[::-1][:count].tolist()),
        }

    def page(self) -> str | None:
        """The images that are worst."""
        chosen = [int(index) for index in np.argsort(self.of_images, kind="stable")[:SHOWN]]
        sections = {"Lowest intersection over union": [(index, f"mIoU {self.of_images[index]:.0%}") for index in chosen]}
        return page(self.split, f"The {len(chosen)} of {len(self.of_images):,} images with the lowest mean IoU.", self.images, sections)

    def tell(self) -> None:
        """Print IoU and Dice of each class."""
        table = Table(title="Classes", title_justify="left")
        for column in ("class", "IoU", "Dice", "of all pixels"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, row in self.report().items():
            table.add_row(escape(name), *(f"{row[key]:.1%}" for key in ("iou", "dice", "share")))
        console.print(table)


def miou(confusion: np.ndarray) -> float:
    """Mean intersection over union of a confusion matrix ``(true, predicted)``, over the classes that are there or predicted."""
    right, either = np.diagonal(confusion), confusion.sum(0) + confusion.sum(1)
    there = either > 0
    return float((right[there] / (either[there] - right[there])).mean()) if there.any() else 0.0

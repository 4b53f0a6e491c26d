"""What is logged of masks; torchmetrics' own."""

from __future__ import annotations

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from visionlora.tasks.placed import IGNORED


def metrics(classes: int) -> dict[str, Metric]:
    """Intersection over union, the mean over the classes that are there or predicted; the share of pixels that are right; Dice (F1) in
    the same mean. Pixels of no class do not count.
    """
    return {
        "miou": MulticlassJaccardIndex(classes, ignore_index=IGNORED),
        "pixel_accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED),
        "dice": MulticlassF1Score(classes, average="macro", ignore_index=IGNORED),
    }

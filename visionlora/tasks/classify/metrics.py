"""What is logged of a classifier."""

from __future__ import annotations

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


def metrics(num_classes: int) -> dict[str, Metric]:
    """Top-1, balanced accuracy, macro F1, and top-5 where there are more than five classes; torchmetrics' own."""
    found: dict[str, Metric] = {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "balanced": MulticlassAccuracy(num_classes, average="macro"),
        "f1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        found["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return found

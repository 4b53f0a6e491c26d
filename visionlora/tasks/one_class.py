"""What tasks have in common whose images are of one class each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from visionlora.tasks.classify.prediction import Prediction
from visionlora.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from visionlora.tasks.classify.labels import Labels


class OneClass(Task):
    """Every image is of one class; a label is its number."""

    baseline_words = "nearest class mean on the untouched backbone"
    output_words = ("class", "classes")
    group_words = ("class", "classes")
    hub = "image-classification"
    columns = ("class", "probability")

    def as_cells(self, label: Any) -> dict[str, Any]:
        return {"label": self.names[int(label)]}

    def groups(self, labels: Sequence[Any]) -> list[int] | None:
        return [int(label) for label in labels]

    def every_group(self, labels: Sequence[Any]) -> list[int]:
        return list(range(self.outputs))

    def in_words(self, label: Any) -> str:
        return self.names[int(label)]

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        import torch

        return torch.tensor(labels, dtype=torch.int64)

    def targets(self) -> Labels:
        from visionlora.tasks.classify.labels import Labels

        return Labels(self.outputs)

    def unreadable(self, name: str, why: str) -> Prediction:
        return Prediction(name, error=why)

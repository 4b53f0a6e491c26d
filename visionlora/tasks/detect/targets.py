"""Boxes of a batch, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.checked_targets import CheckedTargets
from visionlora.tasks.detect.masks import OF_TRUE
from visionlora.tasks.detect.said import check


def padded(labels: Sequence[Tensor]) -> Tensor:
    """Objects of each image ``(objects, 5)``, or with masks ``(objects, 5 + OF_TRUE)``, as ``(N, most, …)``: class, and box in shares of
    the side; class -1 is none.
    """
    most = max((len(one) for one in labels), default=0)
    found = torch.zeros(len(labels), most, max((one.shape[1] for one in labels), default=5))
    found[..., 0] = -1
    for place, one in enumerate(labels):
        found[place, : len(one)] = one
    return found


class BoxTargets(CheckedTargets):
    """Sees that targets are ``(N, objects, 5)``: class, left, top, right, bottom, with class -1 for none, and with masks ``OF_TRUE``
    columns more.

    Args:
        classes: of the task.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def read(self, images: Tensor, targets: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """The objects as float32, those that are none of class -1."""
        if targets.ndim != 3 or targets.shape[0] != len(images) or targets.shape[2] not in (5, 5 + OF_TRUE):
            raise UserError(
                f"the targets of a {part} batch of {len(images)} images are {tuple(targets.shape)}; they must be"
                f" ({len(images)}, objects, 5): class, left, top, right, bottom, in shares of the side; class -1 is none."
            )
        targets = targets.float()
        kind, low, high = targets[..., 0], targets[..., 1:3], targets[..., 3:5]
        fine = (kind == -1) | ((kind >= 0) & (kind < self.classes) & (low < high).all(-1) & (low >= -0.01).all(-1) & (high <= 1.01).all(-1))
        return torch.cat([kind.where(fine, -1.0)[..., None], targets[..., 1:]], dim=2), fine

    def complaint(self, wrong: int, part: str) -> str:
        return (
            f"{wrong} boxes of a {part} batch are none: their class must be 0 to {self.classes - 1} (-1 for none), their corners"
            " in order, from 0 to 1."
        )

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, a detector's."""
        check(outputs, self.classes, part)
        return outputs

"""Boxes of a batch, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.detect.said import check


def padded(labels: Sequence[Tensor]) -> Tensor:
    """Objects of each image ``(objects, 5)`` as ``(N, most, 5)``: class, and box in shares of the side; class -1 is none."""
    most = max((len(one) for one in labels), default=0)
    found = torch.zeros(len(labels), most, 5)
    found[..., 0] = -1
    for place, one in enumerate(labels):
        found[place, : len(one)] = one
    return found


class BoxTargets:
    """Sees that targets are ``(N, objects, 5)``: class, left, top, right, bottom, with class -1 for none.

    Args:
        classes: of the task.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._wrong: dict[str, Tensor] = {}

    def of(self, batch: Any, part: str) -> Tensor:
        """The objects of a batch ``(images, targets)``, float32."""
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise UserError(f"a {part} batch must be a pair (images, targets) of tensors.")
        images, targets = batch[0], torch.as_tensor(batch[1])
        if targets.ndim != 3 or targets.shape[0] != len(images) or targets.shape[2] != 5:
            raise UserError(
                f"the targets of a {part} batch of {len(images)} images are {tuple(targets.shape)}; they must be"
                f" ({len(images)}, objects, 5): class, left, top, right, bottom, in shares of the side; class -1 is none."
            )
        targets = targets.float()
        kind, low, high = targets[..., 0], targets[..., 1:3], targets[..., 3:5]
        fine = (kind == -1) | ((kind >= 0) & (kind < self.classes) & (low < high).all(-1) & (low >= -0.01).all(-1) & (high <= 1.01).all(-1))
        self._wrong[part] = self._wrong.get(part, torch.zeros((), dtype=torch.int64, device=targets.device)) + (~fine).sum()
        if targets.device.type == "cpu":
            self.tell(part)
        return targets

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, a detector's."""
        check(outputs, self.classes, part)
        return outputs

    def tell(self, part: str) -> None:
        """Say what was noted since the last time."""
        wrong = int(self._wrong.pop(part, torch.zeros(())))
        if wrong:
            raise UserError(
                f"{wrong} boxes of a {part} batch are none: their class must be 0 to {self.classes - 1} (-1 for none), their corners"
                " in order, from 0 to 1."
            )

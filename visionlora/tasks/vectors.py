"""Targets that are a row of numbers an image, ``(N, outputs)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError


def as_rows(labels: Sequence[Any]) -> Tensor:
    """Labels, each a number or a list of numbers, as float32 ``(N, outputs)``."""
    return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), -1)


class VectorTargets:
    """Sees that targets are finite numbers, as many an image as the model has outputs.

    Args:
        outputs: of the model.
        what: a target in words, for sentences.
        shares: whether they are between 0 and 1.
    """

    def __init__(self, outputs: int, what: str, shares: bool = False) -> None:
        self.outputs, self.what, self.shares = outputs, what, shares
        self._wrong: dict[str, Tensor] = {}

    def of(self, batch: Any, part: str) -> Tensor:
        """The targets of a batch ``(images, targets)`` as float32 ``(N, outputs)``."""
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise UserError(f"a {part} batch must be a pair (images, targets) of tensors.")
        targets = batch[1]
        if targets.ndim == 1 and self.outputs == 1:
            targets = targets[:, None]
        if targets.shape != (len(batch[0]), self.outputs):
            raise UserError(
                f"the targets of a {part} batch of {len(batch[0])} images are {tuple(targets.shape)}; they must be"
                f" ({len(batch[0])}, {self.outputs}), {self.what}."
            )
        targets = targets.float()
        fine = targets.isfinite() if not self.shares else (targets >= 0) & (targets <= 1)
        self._wrong[part] = self._wrong.get(part, torch.zeros((), dtype=torch.int64, device=targets.device)) + (~fine).sum()
        if targets.device.type == "cpu":
            self.tell(part)
        return targets

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, ``(N, outputs)``."""
        if outputs.ndim != 2 or outputs.shape[1] != self.outputs:
            shape = tuple(outputs.shape)
            raise UserError(f"the model gives an output of shape {shape} for a {part} batch, where (N, {self.outputs}) is wanted.")
        return outputs

    def tell(self, part: str) -> None:
        """Say what was noted since the last time."""
        wrong = int(self._wrong.pop(part, torch.zeros(())))
        if wrong:
            found = "not between 0 and 1" if self.shares else "nan or infinite"
            raise UserError(f"{wrong} targets of a {part} batch are {found}; they must be {self.what}.")

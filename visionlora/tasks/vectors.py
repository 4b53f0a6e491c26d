"""Targets that are a row of numbers an image, ``(N, outputs)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.checked_targets import CheckedTargets


def as_rows(labels: Sequence[Any]) -> Tensor:
    """Labels, each a number or a list of numbers, as float32 ``(N, outputs)``."""
    return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), -1 if labels else 0)


class VectorTargets(CheckedTargets):
    """Sees that targets are finite numbers, as many an image as the model has outputs.

    Args:
        outputs: of the model.
        what: a target in words, for sentences.
        shares: whether they are between 0 and 1.
    """

    def __init__(self, outputs: int, what: str, shares: bool = False) -> None:
        super().__init__()
        self.outputs, self.what, self.shares = outputs, what, shares

    def read(self, images: Tensor, targets: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """The targets as float32 ``(N, outputs)``."""
        if targets.ndim == 1 and self.outputs == 1:
            targets = targets[:, None]
        if targets.shape != (len(images), self.outputs):
            raise UserError(
                f"the targets of a {part} batch of {len(images)} images are {tuple(targets.shape)}; they must be"
                f" ({len(images)}, {self.outputs}), {self.what}."
            )
        targets = targets.float()
        return targets, targets.isfinite() if not self.shares else (targets >= 0) & (targets <= 1)

    def complaint(self, wrong: int, part: str) -> str:
        found = "not between 0 and 1" if self.shares else "nan or infinite"
        return f"{wrong} targets of a {part} batch are {found}; they must be {self.what}."

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, ``(N, outputs)``."""
        if outputs.ndim != 2 or outputs.shape[1] != self.outputs:
            shape = tuple(outputs.shape)
            raise UserError(f"the model gives an output of shape {shape} for a {part} batch, where (N, {self.outputs}) is wanted.")
        return outputs

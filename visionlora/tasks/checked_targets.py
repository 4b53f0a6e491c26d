"""Targets of a batch, looked at before anything is reckoned with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError


class CheckedTargets:
    """Counts the targets that cannot be used. On a CPU they are told in their batch; on another device, where looking would wait for all
    that is being computed, once an epoch by ``tell``.

    Class attributes:
        called: the second of a batch's pair, in words.
    """

    called = "targets"

    def __init__(self) -> None:
        self._wrong: dict[str, Tensor] = {}

    def read(self, images: Tensor, targets: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """The targets in the type that is reckoned with, without what would stop a device in the middle of the loss; and of which of
        their entries they are right.

        Raises:
            UserError: they are of another type or shape.
        """
        raise NotImplementedError

    def complaint(self, wrong: int, part: str) -> str:
        """The sentence about so many wrong entries."""
        raise NotImplementedError

    def of(self, batch: Any, part: str) -> Tensor:
        """The targets of a batch ``(images, targets)``; ``part`` names the batch in sentences.

        Raises:
            UserError: the batch is no such pair, or the targets cannot be used.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise UserError(f"a {part} batch must be a pair (images, {self.called}) of tensors.")
        targets, right = self.read(batch[0], torch.as_tensor(batch[1]), part)
        self._wrong[part] = self._wrong.get(part, torch.zeros((), dtype=torch.int64, device=right.device)) + (~right).sum()
        if right.device.type == "cpu":
            self.tell(part)
        return targets

    def tell(self, part: str) -> None:
        """Say what was noted since the last time.

        Raises:
            UserError: some targets were wrong.
        """
        if wrong := int(self._wrong.pop(part, torch.zeros(()))):
            raise UserError(self.complaint(wrong, part))

"""Masks of a batch, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.placed import IGNORED


class MaskTargets:
    """Sees that targets are masks ``(N, H, W)`` of class indices, and outputs ``(N, classes, H, W)``.

    Args:
        classes: outputs of the model.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._wrong: dict[str, Tensor] = {}

    def of(self, batch: Any, part: str) -> Tensor:
        """The masks of a batch ``(images, masks)``, int64 ``(N, H, W)``, with ``IGNORED`` where there is no class."""
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise UserError(f"a {part} batch must be a pair (images, masks) of tensors.")
        images, masks = batch[0], torch.as_tensor(batch[1])
        if len(masks) and (masks.ndim != 3 or masks.shape[1:] != images.shape[2:]):
            raise UserError(
                f"the masks of a {part} batch of images {tuple(images.shape)} are {tuple(masks.shape)}; they must be"
                f" {(len(images), *images.shape[2:])}, the index of a class for each pixel."
            )
        if masks.is_floating_point():
            raise UserError(f"the masks of a {part} batch are {masks.dtype}; they must be whole numbers, the indices of classes.")
        masks = masks.long()
        fine = ((masks >= 0) & (masks < self.classes)) | (masks == IGNORED)
        self._wrong[part] = self._wrong.get(part, torch.zeros((), dtype=torch.int64, device=masks.device)) + (~fine).sum()
        if masks.device.type == "cpu":
            self.tell(part)
        return masks

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, ``(N, classes, H, W)``."""
        if outputs.ndim != 4 or outputs.shape[1] != self.classes:
            shape = tuple(outputs.shape)
            raise UserError(f"the model gives an output of shape {shape} for a {part} batch, where (N, {self.classes}, H, W) is wanted.")
        return outputs

    def tell(self, part: str) -> None:
        """Say what was noted since the last time."""
        wrong = int(self._wrong.pop(part, torch.zeros(())))
        if wrong:
            raise UserError(f"{wrong} pixels of a {part} batch have none of the classes 0 to {self.classes - 1}, nor {IGNORED} for none.")

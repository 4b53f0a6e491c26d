"""Masks of a batch, checked."""

from __future__ import annotations

from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.checked_targets import CheckedTargets
from visionlora.tasks.placed import IGNORED


class MaskTargets(CheckedTargets):
    """Sees that targets are masks ``(N, H, W)`` of class indices (``IGNORED``: no class), and outputs ``(N, classes, H, W)``.

    Args:
        classes: outputs of the model.
    """

    called = "masks"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def read(self, images: Tensor, targets: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """The masks as int64; a pixel of a class that there is not has none."""
        if len(targets) and (targets.ndim != 3 or targets.shape[1:] != images.shape[2:]):
            raise UserError(
                f"the masks of a {part} batch of images {tuple(images.shape)} are {tuple(targets.shape)}; they must be"
                f" {(len(images), *images.shape[2:])}, the index of a class for each pixel."
            )
        if targets.is_floating_point():
            raise UserError(f"the masks of a {part} batch are {targets.dtype}; they must be whole numbers, the indices of classes.")
        masks = targets.long()
        fine = ((masks >= 0) & (masks < self.classes)) | (masks == IGNORED)
        return masks.where(fine, IGNORED), fine

    def complaint(self, wrong: int, part: str) -> str:
        return f"{wrong} pixels of a {part} batch have none of the classes 0 to {self.classes - 1}, nor {IGNORED} for none."

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """``outputs`` themselves, ``(N, classes, H, W)``."""
        if outputs.ndim != 4 or outputs.shape[1] != self.classes:
            shape = tuple(outputs.shape)
            raise UserError(f"the model gives an output of shape {shape} for a {part} batch, where (N, {self.classes}, H, W) is wanted.")
        return outputs

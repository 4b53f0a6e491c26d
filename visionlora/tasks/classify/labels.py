"""Labels as a classifier of one class an image takes them, or a sentence on why it does not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionlora.common.errors import UserError


class Labels:
    """Sees that the labels of every batch are one class number an image.

    Type and shape are looked at always, and cost nothing. Whether the numbers are in range is looked at in every batch on a CPU; on
    another device, where looking would wait for all that is being computed, it is noted there and told by ``tell`` once an epoch.

    Args:
        num_classes: number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._extremes: dict[str, Tensor] = {}

    def of(self, batch: Any, part: str) -> Tensor:
        """The labels of a batch ``(images, labels)`` as int64 ``(N,)``, each of them a class.

        Args:
            batch: as a data loader gives it.
            part: names the batch in the sentence.

        Raises:
            UserError: the batch is not such a pair, or the labels are of another type, shape or range.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(f"a {part} batch is {_named(batch)}; it must be a pair (images, labels).")
        images, labels = batch
        if not isinstance(labels, Tensor):
            raise UserError(
                f"the labels of a {part} batch are {_named(labels)}; they must be a tensor of whole numbers, one class an image."
            )
        kind = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise UserError(
                f"the labels of a {part} batch are {kind}, one value a class: this classifier is for one class an image; give class"
                " numbers (N,), as labels.argmax(1) gives where each image has one class."
            )
        if labels.ndim != 1:
            raise UserError(f"the labels of a {part} batch are {kind}; they must be (N,), one class an image.")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(f"the labels of a {part} batch are {kind}; they must be whole numbers (torch.int64), one class an image.")
        count = len(images)
        if len(labels) != count:
            raise UserError(f"a {part} batch has {count} images, but {len(labels)} labels.")
        labels = labels.long()
        return self._in_range(labels, part) if len(labels) else labels

    def fit(self, logits: Tensor, part: str) -> Tensor:
        """``logits`` themselves.

        Raises:
            UserError: there are not as many as classes.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise UserError(
                f"the model gives an output of shape {tuple(logits.shape)} for a {part} batch, where (N, {self.num_classes}) is wanted:"
                " num_classes, or the model's head, is another's."
            )
        return logits

    def tell(self, part: str) -> None:
        """Say what was noted since the last time.

        Raises:
            UserError: a label was out of range.
        """
        if (extremes := self._extremes.pop(part, None)) is not None:
            self._refuse(extremes, part)

    def _in_range(self, labels: Tensor, part: str) -> Tensor:
        extremes = torch.stack(labels.aminmax())
        if labels.device.type == "cpu":
            self._refuse(extremes, part)
            return labels
        known = self._extremes.get(part)
        if known is not None:
            extremes = torch.stack([torch.minimum(extremes[0], known[0]), torch.maximum(extremes[1], known[1])])
        self._extremes[part] = extremes
        return labels.clamp(0, self.num_classes - 1)  # else the device would stop in the middle of the loss, without a word of which

    def _refuse(self, extremes: Tensor, part: str) -> None:
        lowest, highest = extremes.tolist()
        if lowest < 0 or highest >= self.num_classes:
            found = lowest if lowest < 0 else highest
            raise UserError(
                f"a {part} batch has the label {found}; with {self.num_classes} classes, labels are 0 to {self.num_classes - 1}"
                " (they are counted from 0)."
            )


def _named(value: Any) -> str:
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, tuple | list | dict) else f"a {type(value).__name__}"

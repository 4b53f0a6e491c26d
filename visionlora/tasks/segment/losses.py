"""Losses of masks: torch's cross-entropy, the others from segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from visionlora.common.errors import UserError
from visionlora.common.smp import segmentation_models
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    from visionlora.tasks.segment.task import SegmentOptions

MOST_WEIGHT = 10.0
"""A class's pixels weigh at most so many times as much as those of the class in the middle."""


class CrossEntropy(nn.Module):
    """Cross-entropy of ``(N, C, H, W)`` with masks ``(N, H, W)``, the mean over the pixels that have a class, 0 where none has.

    Args:
        smoothing: of labels.
        weights: of the classes.
    """

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing, self.weights = smoothing, weights

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = None if self.weights is None else self.weights.to(outputs)
        more: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": self.smoothing, "reduction": "sum"}
        total = functional.cross_entropy(outputs, targets, weight, **more)
        known = targets != IGNORED
        share = known.sum() if weight is None else weight[targets[known]].sum()
        return total / share.clamp(min=1)


class Mean(nn.Module):
    """The mean of several losses; 0 where no pixel has a class."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if bool((targets == IGNORED).all()):
            return outputs.sum() * 0
        return torch.stack([loss(outputs, targets) for loss in self.losses]).mean()


def loss_of(options: SegmentOptions, smoothing: float, weights: Tensor | None) -> Loss:
    """The loss that the options name.

    Raises:
        UserError: segmentation_models_pytorch is not installed; or ``optim.label_smoothing`` or ``data.balance=weights``, which are for the
            cross-entropy alone, is given for a loss without it.
    """
    names = options.loss.split("_")
    given = "optim.label_smoothing" if smoothing else "data.balance=weights" if weights is not None else None
    if given and "ce" not in names:
        raise UserError(f"{given} is for the cross-entropy, which task.loss={options.loss} has none of; take ce, ce_dice or ce_lovasz.")
    if names == ["ce"]:
        return CrossEntropy(smoothing, weights)
    losses: Any = segmentation_models(f"task.loss={options.loss}").losses
    made: dict[str, Callable[[], Loss]] = {
        "ce": lambda: CrossEntropy(smoothing, weights),
        "dice": lambda: losses.DiceLoss("multiclass", from_logits=True, ignore_index=IGNORED),
        "focal": lambda: losses.FocalLoss("multiclass", gamma=options.gamma, ignore_index=IGNORED),
        "lovasz": lambda: losses.LovaszLoss("multiclass", ignore_index=IGNORED),
    }
    return Mean([made[name]() for name in names])


def weights_of(masks: Sequence[Any], classes: int) -> Tensor:
    """Weights of the classes by median frequency balancing (Eigen and Fergus 2015, arXiv 1411.4734, §4.2): the share of a class's pixels in
    the images that have it, the median of all classes over it, at most ``MOST_WEIGHT``.
    """
    pixels, room = np.zeros(classes), np.zeros(classes)
    for mask in masks:
        counts = np.bincount(mask.read().ravel(), minlength=256)[:classes]
        pixels += counts
        room += counts.sum() * (counts > 0)
    share = np.divide(pixels, room, out=np.zeros(classes), where=room > 0)
    median = float(np.median(share[share > 0])) if share.any() else 1.0
    weights = np.divide(median, share, out=np.ones(classes), where=share > 0).clip(1 / MOST_WEIGHT, MOST_WEIGHT)
    return torch.tensor(weights, dtype=torch.float32)

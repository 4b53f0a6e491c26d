"""Losses of training for several labels an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    from visionlora.tasks.multilabel.task import MultilabelOptions

MOST = 20.0
"""The largest weight of a label's images: one that is nearly nowhere would be all of the loss."""


def training_loss(options: MultilabelOptions, smoothing: float, positives: Sequence[int] | None, images: int) -> Loss:
    """The loss that ``task.loss``, ``optim.label_smoothing`` and ``data.balance=weights`` ask for, its mean over images and labels.

    Args:
        options: of the task.
        smoothing: targets are so much nearer to 0.5.
        positives: images that have each label, where those that have it shall weigh as much in all as those that do not; ``None`` for
            equal weights.
        images: how many there are.
    """
    if options.loss == "asymmetric":
        asymmetric = AsymmetricLossMultiLabel(gamma_neg=options.gamma, gamma_pos=0.0)
        return lambda outputs, targets: asymmetric(outputs, _smoothed(targets, smoothing)) / targets.numel()
    if options.loss == "focal":
        return lambda outputs, targets: sigmoid_focal_loss(
            outputs, _smoothed(targets, smoothing), alpha=-1, gamma=options.gamma, reduction="mean"
        )
    return Weighted(smoothing, None if positives is None else [(images - count) / count if count else 1.0 for count in positives])


class Weighted(nn.Module):
    """Binary cross-entropy with a weight of the images that have a label.

    Args:
        smoothing: of the targets.
        weights: for each label, at most ``MOST``; ``None`` for 1.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float, weights: Sequence[float] | None) -> None:
        super().__init__()
        self.smoothing = smoothing
        known = None if weights is None else torch.tensor(weights).clamp(1 / MOST, MOST)
        self.register_buffer("weights", known, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, _smoothed(targets, self.smoothing), pos_weight=self.weights)


def _smoothed(targets: Tensor, smoothing: float) -> Tensor:
    return targets * (1 - smoothing) + smoothing / 2

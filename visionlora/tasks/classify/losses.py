"""Losses of training for classes: focal, and for classes that differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    from visionlora.tasks.classify.task import ClassifyOptions


def training_loss(options: ClassifyOptions, smoothing: float, balance: str, counts: Sequence[int] | None) -> Loss:
    """The loss that ``task.loss``, ``optim.label_smoothing`` and ``data.balance`` ask for.

    Args:
        options: of the task.
        smoothing: share of the target that is spread over all classes.
        balance: ``weights`` gives every class the same weight in the loss; ``logit_adjustment`` adds the logarithm of a class's share of
            the images to its logit (Menon et al. 2021, arXiv 2007.07314, §4.2, with temperature 1), so that the model learns what would
            be right for classes of one size.
        counts: training images of each class.
    """
    known = torch.tensor(counts, dtype=torch.float32).clamp(min=1) if counts else None
    weights = known.sum() / (len(known) * known) if known is not None and balance == "weights" else None
    prior = (known / known.sum()).log() if known is not None and balance == "logit_adjustment" else None
    if options.loss == "cross_entropy" and prior is None and weights is None:
        return nn.CrossEntropyLoss(label_smoothing=smoothing)
    return Adjusted(options.gamma if options.loss == "focal" else 0.0, smoothing, weights, prior)


class Adjusted(nn.Module):
    """Cross-entropy or focal loss, with weights of classes or with logits adjusted by their prior.

    Args:
        gamma: exponent of the focal loss; 0 is cross-entropy.
        smoothing: of the targets.
        weights: of the classes, ``(C,)``.
        prior: logarithm of each class's share, ``(C,)``.
    """

    weights: Tensor | None
    prior: Tensor | None

    def __init__(self, gamma: float, smoothing: float, weights: Tensor | None, prior: Tensor | None) -> None:
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits ``(N, C)`` for classes ``(N,)`` or shares of classes ``(N, C)``. With weights it is the weighted mean."""
        if self.prior is not None:
            logits = logits + self.prior
        if self.gamma == 0:
            return functional.cross_entropy(logits, targets, self.weights, label_smoothing=self.smoothing)
        shares = functional.one_hot(targets, logits.shape[1]).to(logits) if targets.ndim == 1 else targets
        shares = shares * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        found = functional.log_softmax(logits, 1)
        losses = -(shares * (1 - found.exp()) ** self.gamma * found)
        if self.weights is None:
            return losses.sum(1).mean()
        return (losses * self.weights).sum() / (shares * self.weights).sum()

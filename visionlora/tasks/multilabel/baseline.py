"""The nearest mean of images with a label and without it, on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor


class LabelMeans:
    """For each label, the logits of two Gaussians with one shared variance: of the images that have it, and of those that do not.

    Args:
        outputs: number of labels.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self.sums: Tensor | None = None
        self.means, self.variance, self.prior = torch.zeros(0), torch.ones(()), torch.zeros(0)

    def learn(self, features: Tensor, targets: Tensor) -> None:
        """Take in ``features (N, D)`` of images with ``targets (N, labels)``."""
        shares = torch.cat([targets, 1 - targets], 1).to(features.dtype)  # with each label, then without it
        squares = shares.T @ features.square().sum(1, keepdim=True)
        found = torch.cat([shares.T @ features, shares.sum(0)[:, None], squares], 1)
        self.sums = found if self.sums is None else self.sums + found

    def totals(self) -> Tensor | None:
        """For each label, with it and without it: sum of the features, number of images, sum of squares; ``(2 labels, D + 2)``."""
        return self.sums

    def settle(self, totals: Tensor) -> None:
        """Take means, variance and shares from sums over all processes."""
        sums, counts, squares = totals[:, :-2], totals[:, -2:-1], totals[:, -1:]
        self.means = sums / counts.clamp(min=1)
        within = squares.sum() - (counts * self.means.square()).sum()
        self.variance = (within / (counts.sum() * self.means.shape[1])).clamp(min=1e-12)
        having, lacking = counts[: self.outputs, 0].clamp(min=0.5), counts[self.outputs :, 0].clamp(min=0.5)
        self.prior = (having / lacking).log()

    def predict(self, features: Tensor) -> Tensor:
        """Logits ``(N, labels)`` of ``features (N, D)``."""
        distances = torch.cdist(features, self.means).square()
        return (distances[:, self.outputs :] - distances[:, : self.outputs]) / (2 * self.variance) + self.prior

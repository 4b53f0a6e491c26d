"""The nearest class mean on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassMeans:
    """Predicts by distance to the mean of each class, as learnt from some training images.

    The outputs are the logits of Gaussians around the class means with one shared variance, ``-|f - μ|² / 2σ²``, so that their
    cross-entropy is a likelihood too.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.sums: Tensor | None = None
        self.means, self.variance = torch.zeros(0), torch.ones(())

    def learn(self, features: Tensor, targets: Tensor) -> None:
        """Take in ``features (N, D)`` of images whose classes are ``targets (N,)``."""
        one_hot = nn.functional.one_hot(targets, self.num_classes).to(features.dtype)
        squares = one_hot.T @ features.square().sum(1, keepdim=True)
        found = torch.cat([one_hot.T @ features, one_hot.sum(0)[:, None], squares], 1)
        self.sums = found if self.sums is None else self.sums + found

    def totals(self) -> Tensor | None:
        """For each class the sum of the features, the number of images, and the sum of the squares: ``(classes, D + 2)``."""
        return self.sums

    def settle(self, totals: Tensor) -> None:
        """Take the means and the variance from sums over all processes."""
        sums, counts, squares = totals[:, :-2], totals[:, -2:-1], totals[:, -1:]
        self.means = sums / counts.clamp(min=1)
        within = squares.sum() - (counts * self.means.square()).sum()
        self.variance = (within / (counts.sum() * self.means.shape[1])).clamp(min=1e-12)

    def predict(self, features: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ``features (N, D)``."""
        return -torch.cdist(features, self.means).square() / (2 * self.variance)

"""Gaussians around the means of groups of images on frozen features: what the probe before training is made of."""

from __future__ import annotations

import torch
from torch import Tensor


class GroupMeans:
    """Learns the mean of each group and one variance that all share, from sums, so that several processes can add theirs up."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.means, self.counts, self.variance = torch.zeros(0), torch.zeros(0), torch.ones(())

    def groups(self, targets: Tensor) -> Tensor:
        """How much of each image is of each group: ``targets (N, ...) -> (N, groups)``."""
        raise NotImplementedError

    def learn(self, features: Tensor, targets: Tensor) -> None:
        """Take in ``features (N, D)`` of images with ``targets (N, ...)``."""
        shares = self.groups(targets).to(features.dtype)
        squares = shares.T @ features.square().sum(1, keepdim=True)
        found = torch.cat([shares.T @ features, shares.sum(0)[:, None], squares], 1)
        self.sums = found if self.sums is None else self.sums + found

    def totals(self) -> Tensor | None:
        """For each group the sum of the features, the number of images, and the sum of the squares: ``(groups, D + 2)``."""
        return self.sums

    def settle(self, totals: Tensor) -> None:
        """Take the means and the variance from sums over all processes."""
        sums, self.counts, squares = totals[:, :-2], totals[:, -2], totals[:, -1]
        self.means = sums / self.counts.clamp(min=1)[:, None]
        within = squares.sum() - (self.counts * self.means.square().sum(1)).sum()
        self.variance = (within / (self.counts.sum() * self.means.shape[1])).clamp(min=1e-12)

    def distances(self, features: Tensor) -> Tensor:
        """What the exponent of each group's Gaussian takes away, ``|f - μ|² / 2σ²``: ``(N, D) -> (N, groups)``."""
        return torch.cdist(features, self.means).square() / (2 * self.variance)

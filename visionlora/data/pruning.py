"""Which training images an epoch leaves out, because they are learned well (InfoBatch, Qin et al. 2024, arXiv 2303.04947)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from visionlora.data.loading import SKIPPED, EpochSampler, mixed_seed

WHOLE = 0.125
"""Share of the epochs, the last ones, that show all images (§3.3 of the paper); one at least."""
PRUNING = 0x707275
"""In seeds of what is left out, so that they are no others."""


class Pruning:
    """The last loss of each training image, and what follows of it for an epoch.

    Of the images whose loss is below the mean, an epoch leaves out the share ``share`` at random, and the loss of those that stay counts
    ``1 / (1 - share)`` times: on average the gradient is that of all images (§3.2). In place of fewer batches there are smaller ones, whose
    sum of losses is divided by the number of images that they would have had: as many steps, and a schedule that ends where it should.

    Args:
        size: number of training images.
        share: of those below the mean, that an epoch leaves out.
        seed: of the run.
        epochs: of the run.
    """

    def __init__(self, size: int, share: float, seed: int, epochs: int) -> None:
        self.share, self.seed = share, seed
        self.last = epochs - max(1, round(WHOLE * epochs))  # the first of the epochs that show all
        self.losses = torch.full((size,), torch.nan)  # of images that have not been seen
        self.left_out = 0  # images of all epochs
        self._epoch, self._below = -1, torch.zeros(size, dtype=torch.bool)
        self._skipped = self._below

    def skipped(self, epoch: int) -> Tensor:
        """Whether the epoch leaves each image out, bool ``(size,)``: settled when it is first asked for the epoch."""
        self._settle(epoch)
        return self._skipped

    def weights(self, epoch: int, indices: Tensor) -> Tensor:
        """How often the loss of each of these images counts in the epoch."""
        self._settle(epoch)
        return torch.where(self._below[indices], 1 / (1 - self.share), 1.0)

    def _settle(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        known = ~self.losses.isnan()
        mean = self.losses[known].double().mean()
        self._below = known & (self.losses < mean) if epoch < self.last else torch.zeros_like(known)
        draws = torch.rand(len(known), generator=torch.Generator().manual_seed(mixed_seed(self.seed, epoch, PRUNING)))
        self._skipped = self._below & (draws < self.share)

    def end_epoch(self, epoch: int) -> None:
        """Count what the epoch has left out."""
        self.left_out += int(self.skipped(epoch).sum())

    def state(self) -> dict[str, Any]:
        """What ``load`` takes."""
        return {"losses": self.losses.clone(), "left_out": self.left_out}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: it is of another number of images.
        """
        losses, self.left_out = state["losses"], int(state["left_out"])
        if losses.shape != self.losses.shape or not losses.is_floating_point():
            raise ValueError(f"its losses are of {tuple(losses.shape)} images, the training part has {len(self.losses)}")
        self.losses.copy_(losses)
        self._epoch = -1


class Shown:
    """Which images this process's batches of an epoch show.

    Args:
        sampler: of the training.
        batch_size: positions a batch.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self._epoch, self._items = -1, list[tuple[int, int]]()

    def of(self, epoch: int, batch_idx: int) -> tuple[list[int], int]:
        """The indices of the images of a batch, and how many it would have had without pruning."""
        if epoch != self._epoch:
            self.sampler.set_epoch(epoch)
            self._epoch, self._items = epoch, list(self.sampler)
        items = self._items[batch_idx * self.batch_size :][: self.batch_size]
        return [index for index, seed in items if seed != SKIPPED], len(items)

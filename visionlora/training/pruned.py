"""The loss of batches from which well-learned images have been left out: ``data.prune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.data.module import ImageData
from visionlora.data.pruning import Pruning, Shown
from visionlora.runs.config import TrainConfig
from visionlora.tasks.metrics import one_number
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.task import Loss


class PrunedLoss:
    """Weighs the losses of the images of each batch, and notes them for the epoch to come.

    Args:
        pruning: of the training images.
        data: that the batches are of.
    """

    def __init__(self, pruning: Pruning, data: ImageData) -> None:
        self.pruning, self.data = pruning, data
        self.shown: Shown | None = None
        self.proven = False
        self.positions = 0
        self._indices = self._weights = torch.empty(0)
        self._before = pruning.losses.clone()

    def begin(self, epoch: int, batch_idx: int, count: int) -> None:
        """Get ready for a batch of so many images."""
        if self.shown is None:
            self.shown = Shown(self.data.in_training(), self.data.batch_size)
        indices, positions = self.shown.of(epoch, batch_idx)
        unreadable, names = self.data.unreadable, self.data.parts["train"].names
        readable = [index for index in indices if names[index] not in unreadable] if unreadable else indices
        self.positions = positions - (len(indices) - count)
        if len(readable) != count:  # some can be read at times: their batch counts as it is
            self._indices, self._weights = torch.empty(0, dtype=torch.long), torch.ones(count)
            self.positions = count
            return
        self._indices = torch.tensor(readable, dtype=torch.long)
        self._weights = self.pruning.weights(epoch, self._indices) * count / max(self.positions, 1)

    def loss(self, criterion: Loss, outputs: Tensor, targets: Tensor, part: slice) -> Tensor:
        """The weighted mean of the losses of a part of the batch.

        Raises:
            UserError: the loss of a batch is not the mean of the losses of its images.
        """
        losses = torch.stack([one_number(criterion(outputs[i : i + 1], targets[i : i + 1])) for i in range(len(targets))])
        if not self.proven:
            whole = one_number(criterion(outputs, targets)).detach()
            if not torch.allclose(whole, losses.detach().mean(), rtol=1e-3, atol=1e-5):
                raise UserError("data.prune: the loss of a batch is not the mean of its images' losses, so that none can be left out.")
            self.proven = True
        if len(self._indices):
            self.pruning.losses[self._indices[part]] = losses.detach().float().cpu()
        return (losses * self._weights[part].to(losses)).mean()

    def end_epoch(self, epoch: int) -> None:
        """Let every process know what the others have found."""
        self.pruning.end_epoch(epoch)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            losses: list[Tensor | None] = [None] * dist.get_world_size()
            dist.all_gather_object(losses, self.pruning.losses)
            self.pruning.losses.copy_(joined(self._before, [each for each in losses if each is not None]))
            self._before = self.pruning.losses.clone()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self.pruning.load(state)
        self._before = self.pruning.losses.clone()


def joined(before: Tensor, found: Sequence[Tensor]) -> Tensor:
    """The losses that several processes have found, each of other images: the last one that differs from that before."""
    after = before.clone()
    for losses in found:
        changed = ~((losses == before) | (losses.isnan() & before.isnan()))
        after[changed] = losses[changed]
    return after


def pruned_loss(config: TrainConfig, data: ImageData) -> PrunedLoss | None:
    """What ``data.prune`` asks for, ``None`` where it does not; from now on ``data`` leaves images out.

    Raises:
        UserError: something else that was asked for cannot be had with it.
    """
    share, epochs = config.data.prune, config.trainer.get("max_epochs")
    data.pruning = None
    if not share:
        return None
    epochs = -1 if epochs is None else int(epochs)
    excluded = {
        f"task={data.task.name} has several losses an image": isinstance(data.task, PlacedTask),
        "data.mixup and data.cutmix mix images, so that no loss is of one image": bool(config.data.mixup or config.data.cutmix),
        "data.balance=weights weighs the losses itself; take sampler or logit_adjustment": config.data.balance == "weights",
        "trainer.overfit_batches takes images of its own": bool(config.trainer.get("overfit_batches")),
        "trainer.max_epochs has to say which epochs are the last ones, that show all images": epochs < 0,
    }
    for why, true in excluded.items():
        if true:
            raise UserError(f"data.prune={share:g}: {why}; leave data.prune out.")
    data.pruning = Pruning(len(data.parts["train"]), share, config.seed, epochs)
    return PrunedLoss(data.pruning, data)

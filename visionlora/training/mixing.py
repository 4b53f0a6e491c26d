"""Mixup and CutMix of a batch: torchvision's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

from visionlora.data.config import DataConfig
from visionlora.tasks.task import Task

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(images (N, C, H, W), targets (N, ...)) -> `` mixed images, and targets that say what of."""


def mixing(config: DataConfig, task: Task) -> Mix | None:
    """What ``data.mixup`` and ``data.cutmix`` ask for, ``None`` where they do not; torch's random state decides.

    Raises:
        UserError: the task's targets cannot be mixed.
    """
    ways: list[v2.Transform] = []
    if config.mixup:
        ways.append(v2.MixUp(alpha=config.mixup, num_classes=task.outputs))
    if config.cutmix:
        ways.append(v2.CutMix(alpha=config.cutmix, num_classes=task.outputs))
    if not ways:
        return None
    task.soft(task.tensor([]))  # refuses what cannot be mixed before the training
    mix = v2.RandomChoice(ways)

    def mixed(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = mix(images, task.soft(targets))
        return found

    return mixed

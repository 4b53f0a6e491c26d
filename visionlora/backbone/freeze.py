"""Batch-norm that keeps the statistics it was pretrained with, whoever calls ``train()``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from torch import nn

from visionlora.common.swap import Swapped, restore, swap


class FrozenStatistics(Swapped):
    """Mixin: a norm with running statistics that is always in eval mode; its affine parameters may still train."""

    prefix = "Frozen"

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def has_statistics(module: nn.Module) -> bool:
    """Whether training mode would move buffers of ``module``."""
    return module._buffers.get("running_var") is not None


def moves_statistics(module: nn.Module) -> bool:
    """Whether training mode does move buffers of ``module``."""
    return has_statistics(module) and not isinstance(module, FrozenStatistics)


def freeze_statistics(model: nn.Module, without: Collection[str] = ()) -> int:
    """Freeze every norm's running statistics, in place; returns how many norms there are.

    Args:
        model: to be changed.
        without: names of modules whose norms are left alone: a fresh decoder has no statistics yet.
    """
    fresh = tuple(f"{name}." for name in without)
    norms = [module for name, module in model.named_modules() if has_statistics(module) and not f"{name}.".startswith(fresh or ("\0",))]
    for module in norms:
        if not isinstance(module, FrozenStatistics):
            swap(module, FrozenStatistics)
            module.eval()
    return len(norms)


def unfreeze_statistics(model: nn.Module) -> None:
    """Undo ``freeze_statistics``."""
    for module in list(model.modules()):
        if isinstance(module, FrozenStatistics):
            restore(module)
            module.train(model.training)

"""Batch-norm that keeps the statistics it was pretrained with, whoever calls ``train()``."""

from __future__ import annotations

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


def freeze_statistics(model: nn.Module) -> int:
    """Freeze every norm's running statistics, in place; returns how many norms there are."""
    norms = [module for module in model.modules() if has_statistics(module)]
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

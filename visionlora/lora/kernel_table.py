"""The table of the classes that have layers with kernels, and how a model takes these layers or leaves them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from visionlora.common.swap import Swapped, restore, swap
from visionlora.lora.kernel_layers import (
    COMPUTE,
    AdaptedConv2d,
    AdaptedConv2dSame,
    AdaptedLinear,
    FrozenConv2d,
    FrozenConv2dSame,
    FrozenLayer,
    FrozenLinear,
    KernelLayer,
)
from visionlora.lora.kernels.copies import Compute, Fold
from visionlora.lora.layer import LoraLayer


class Pair(NamedTuple):
    """The mixins of a class of layers: with adapters, and frozen without any."""

    adapted: type[LoraLayer]
    frozen: type[FrozenLayer]


KERNEL_LAYERS = {
    "torch.nn.modules.linear.Linear": Pair(AdaptedLinear, FrozenLinear),
    "torch.nn.modules.conv.Conv2d": Pair(AdaptedConv2d, FrozenConv2d),
    "timm.layers.conv2d_same.Conv2dSame": Pair(AdaptedConv2dSame, FrozenConv2dSame),
}
"""Full name of a class -> its layers with kernels. This is the whole table: a layer of any other class, a subclass of these included, may
do something else with its weight, and computes with its effective weight. The names stand for the classes, so that timm is not imported."""


def kernel_layers(cls: type[nn.Module]) -> Pair | None:
    """The layers with kernels for a class of layers; ``None`` where it has none."""
    return KERNEL_LAYERS.get(f"{cls.__module__}.{cls.__qualname__}")


def takes_copies(module: nn.Module) -> bool:
    """Whether ``module`` is a frozen layer of a class with kernels, adapted or not."""
    base = module.base_class if isinstance(module, Swapped) else type(module)
    return kernel_layers(base) is not None and not is_trained(module)


def is_trained(module: nn.Module) -> bool:
    """Whether a parameter of ``module`` itself is trained."""
    return any(p is not None and p.requires_grad for p in module._parameters.values())


def use_copies(module: nn.Module, fold: Fold | None = None) -> None:
    """Let a frozen layer of a class with kernels compute with copies made once; it may have adapters, or get them later.

    Args:
        module: the layer.
        fold: the norm after it, to be folded in.
    """
    module.__dict__[COMPUTE] = Compute(fold, outlives_adapters=True)
    if not isinstance(module, Swapped) and (layers := kernel_layers(type(module))):
        swap(module, layers.frozen)


def drop_copies(module: nn.Module) -> None:
    """Undo ``use_copies``; adapters stay."""
    module.__dict__.pop(COMPUTE, None)
    if isinstance(module, FrozenLayer):
        restore(module)


@contextlib.contextmanager
def without_kernels(model: nn.Module) -> Iterator[None]:
    """A context in which each layer of an unfolded ``model`` takes its own class's ``forward`` on the effective weight: the reference."""
    computes = [module.compute() for module in model.modules() if isinstance(module, KernelLayer)]
    before = [compute.bypassed for compute in computes]
    for compute in computes:
        compute.bypassed = True
    try:
        yield
    finally:
        for compute, bypassed in zip(computes, before, strict=True):
            compute.bypassed = bypassed


def leave_kernels(model: nn.Module) -> None:
    """Let every layer of an unfolded ``model`` take its own class's ``forward`` from now on."""
    for module in model.modules():
        if isinstance(module, KernelLayer):
            module.compute().bypassed = True

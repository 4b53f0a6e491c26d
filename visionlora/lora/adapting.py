"""Turn a module into a LoRA layer in place, and back."""

from __future__ import annotations

from torch import nn

from visionlora.common.swap import Swapped, restore, swap
from visionlora.lora.adapter_set import AdapterSet
from visionlora.lora.kernel_layers import COMPUTE
from visionlora.lora.kernel_table import kernel_layers
from visionlora.lora.layer import LoraLayer


def adapt(module: nn.Module, sets: dict[str, AdapterSet]) -> None:
    """Make ``module`` a LoRA layer whose parameters have these adapters, in place."""
    names = tuple(sets)
    if isinstance(module, LoraLayer):  # more parameters, or another adapter
        names = tuple(dict.fromkeys((*module.attributes, *names)))
        sets = {**module.adapter_sets, **sets}
    if isinstance(module, Swapped):
        restore(module)
    layers = kernel_layers(type(module))
    mixin = LoraLayer if layers is None else layers.adapted
    module._modules["lora"] = nn.ModuleDict(sets)
    swap(module, mixin, names)


def detach(module: LoraLayer) -> dict[str, AdapterSet]:
    """Give ``module`` its own class back and return its adapters."""
    sets = dict(module.adapter_sets)
    del module._modules["lora"]
    restore(module)
    compute = module.__dict__.get(COMPUTE)
    layers = kernel_layers(type(module))
    if compute is not None and compute.outlives_adapters and layers is not None:
        swap(module, layers.frozen)
    else:
        module.__dict__.pop(COMPUTE, None)
    return sets

"""A LoRA layer *is* the layer it adapts: its class, with the frozen parameter turned into a property."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from visionlora.lora import kernels
from visionlora.lora.adapter import AdapterSet
from visionlora.swap import Swapped, restore, swap

ADAPTABLE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Conv1d: ("weight",),
    nn.Conv2d: ("weight",),
    nn.Conv3d: ("weight",),
    nn.ConvTranspose1d: ("weight",),
    nn.ConvTranspose2d: ("weight",),
    nn.ConvTranspose3d: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
"""Layers with parameters that are a matrix of outputs by inputs, subclasses included."""
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Those whose weight has its inputs first."""


class LoraLayer(Swapped):
    """Mixin that reads each adapted parameter as ``W + scaling · B A``, so that whatever the base class does with it holds.

    ``module.weight`` is the effective weight; the frozen one stays under its own key in the state dict. In-place writes to
    ``module.weight`` are lost: initialise or load before injection, or with ``load_state_dict``.
    """

    prefix = "Lora"

    @property
    def adapter_sets(self) -> dict[str, AdapterSet]:
        """Parameter name -> its adapters."""
        return cast("dict[str, AdapterSet]", self._modules["lora"]._modules)  # type: ignore[union-attr]

    def raw(self, name: str) -> nn.Parameter:
        """The frozen parameter itself."""
        return cast(nn.Parameter, self._parameters[name])

    @classmethod
    def attribute(cls, name: str) -> property:
        def effective(self: LoraLayer) -> Tensor:
            try:
                raw = self.raw(name)
                return raw if _is_dtensor(raw) else self.adapter_sets[name].effective(raw)
            except AttributeError as error:
                # Falling through to nn.Module.__getattr__ would return the frozen weight, silently.
                raise RuntimeError(f"computing the adapted {name} of {type(self).__name__} failed: {error}") from error

        return property(effective)


class FastLinear(LoraLayer):
    """For ``nn.Linear`` itself; a subclass may do something else with its weight and takes the property."""

    def forward(self, x: Tensor) -> Tensor:
        adapters, raw = self.adapter_sets["weight"], self.raw("weight")
        if not adapters.active:
            return cast(Tensor, super().forward(x))
        return kernels.linear(x, raw, self._parameters["bias"], *adapters.factors(raw))


class FastConv2d(LoraLayer):
    """For ``nn.Conv2d`` itself, ungrouped and zero-padded."""

    def forward(self, x: Tensor) -> Tensor:
        adapters, raw, conv = self.adapter_sets["weight"], self.raw("weight"), cast(nn.Conv2d, self)
        if conv.groups != 1 or conv.padding_mode != "zeros" or not adapters.active:
            return cast(Tensor, super().forward(x))
        u, v, scale = adapters.factors(raw)
        return kernels.conv2d(x, raw, self._parameters["bias"], u, v, scale, conv.stride, conv.padding, conv.dilation)


FAST: dict[type[nn.Module], type[LoraLayer]] = {nn.Linear: FastLinear, nn.Conv2d: FastConv2d}


def adaptable(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of ``module`` that can be adapted."""
    for cls, names in ADAPTABLE.items():
        if isinstance(module, cls):
            return tuple(name for name in names if module._parameters.get(name) is not None)
    return ()


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers of ``model`` with their names; a module that stands under two names comes once."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def adapt(module: nn.Module, sets: dict[str, AdapterSet]) -> None:
    """Make ``module`` a LoRA layer whose parameters have these adapters, in place."""
    names = tuple(sets)
    if isinstance(module, LoraLayer):  # more parameters, or another adapter
        names = tuple(dict.fromkeys((*module.attributes, *names)))
        sets = {**module.adapter_sets, **sets}
        restore(module)
    mixin = FAST.get(type(module), LoraLayer)
    module._modules["lora"] = nn.ModuleDict(sets)
    swap(module, mixin, names)


def detach(module: LoraLayer) -> dict[str, AdapterSet]:
    """Give ``module`` its own class back and return its adapters."""
    sets = dict(module.adapter_sets)
    del module._modules["lora"]
    restore(module)
    return sets


def _is_dtensor(raw: Tensor) -> bool:
    # FSDP2 reads the attribute while it shards. Looked up, not imported: torch.distributed.tensor is slow to import.
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and not torch.compiler.is_compiling() and isinstance(raw, tensors.DTensor)

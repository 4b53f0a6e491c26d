"""A LoRA layer *is* the layer it adapts: its class, with the frozen parameter turned into a property."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from visionlora.common.swap import Swapped, restore, swap
from visionlora.lora import kernels
from visionlora.lora.adapter import AdapterSet
from visionlora.lora.compute import Compute, Fold
from visionlora.lora.products import Conv, subsampled_conv

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
COMPUTE = "_compute"


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
                if is_distributed(raw):
                    return _to_be_sharded(raw, sys._getframe(1), f"{type(self).__name__}.{name}")
                return self.adapter_sets[name].effective(raw)
            except AttributeError as error:
                # Falling through to nn.Module.__getattr__ would return the frozen weight, silently.
                raise RuntimeError(f"computing the adapted {name} of {type(self).__name__} failed: {error}") from error

        return property(effective)


class Fast(Swapped):
    """Mixin of layers whose ``forward`` is a kernel's."""

    def compute(self) -> Compute:
        """The copies the layer computes with; they are no part of its state."""
        return cast(Compute, self.__dict__.setdefault(COMPUTE, Compute()))

    def layer(self) -> kernels.Layer | None:
        """As the kernels take it; ``None`` where they cannot, and the layer's own ``forward`` is taken."""
        raise NotImplementedError

    def prepare(self, x: Tensor) -> Tensor:
        """What the layer does to its input before the product."""
        return x

    def takes(self, layer: kernels.Layer | None, x: Tensor) -> TypeGuard[kernels.Layer]:
        """Whether the kernels compute the layer for this input."""
        return layer is not None and not layer.compute.plain and kernels.fits(x, layer) and not is_distributed(layer.raw)


class _Linear(Fast):
    def layer(self) -> kernels.Layer | None:
        raw, bias = self._parameters["weight"], self._parameters["bias"]
        assert raw is not None
        return kernels.Layer(raw, bias, self.compute())


class _Conv2d(Fast):
    def layer(self) -> kernels.Layer | None:
        conv, raw, bias = cast(nn.Conv2d, self), self._parameters["weight"], self._parameters["bias"]
        assert raw is not None
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            return None
        return kernels.Layer(raw, bias, self.compute(), Conv(conv.stride, conv.padding, conv.dilation, conv.groups))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What the class's own forward comes to, where no kernel is taken.
        return subsampled_conv(cast(nn.Conv2d, self), x, weight, bias)


class _FastLora(Fast, LoraLayer):
    def forward(self, x: Tensor) -> Tensor:
        adapters, layer = self.adapter_sets["weight"], self.layer()
        if not self.takes(layer, x):
            return cast(Tensor, super().forward(x))
        if not adapters.active:
            return kernels.frozen(self.prepare(x), layer)
        return kernels.adapted(self.prepare(x), layer, *adapters.factors(layer.raw))


class FastLinear(_Linear, _FastLora):
    """For ``nn.Linear`` itself; a subclass may do something else with its weight and takes the property."""


class FastConv2d(_Conv2d, _FastLora):
    """For ``nn.Conv2d`` itself, zero-padded."""


class Lean(Fast):
    """Mixin: a frozen layer without adapters, computed in the compute dtype and with its norm folded in."""

    prefix = "Lean"

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer()
        if not self.takes(layer, x):
            return cast(Tensor, super().forward(x))
        return kernels.frozen(self.prepare(x), layer)


class LeanLinear(_Linear, Lean):
    """For ``nn.Linear`` itself."""


class LeanConv2d(_Conv2d, Lean):
    """For ``nn.Conv2d`` itself."""


FAST: dict[type[nn.Module], tuple[type[LoraLayer], type[Lean]]] = {
    nn.Linear: (FastLinear, LeanLinear),
    nn.Conv2d: (FastConv2d, LeanConv2d),
}
"""Classes with kernels: with adapters, and without."""


def make_lean(module: nn.Module, fold: Fold | None = None) -> None:
    """Let a frozen layer of a class in ``FAST`` compute with copies made once; adapters may be there or come later."""
    module.__dict__[COMPUTE] = Compute(fold, lean=True)
    if not isinstance(module, Swapped):
        swap(module, FAST[type(module)][1])


def make_plain(module: nn.Module) -> None:
    """Undo ``make_lean``; adapters stay."""
    module.__dict__.pop(COMPUTE, None)
    if isinstance(module, Lean):
        restore(module)


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
    if isinstance(module, Swapped):
        restore(module)
    mixin = FAST[type(module)][0] if type(module) in FAST else LoraLayer
    module._modules["lora"] = nn.ModuleDict(sets)
    swap(module, mixin, names)


def detach(module: LoraLayer) -> dict[str, AdapterSet]:
    """Give ``module`` its own class back and return its adapters."""
    sets = dict(module.adapter_sets)
    del module._modules["lora"]
    restore(module)
    compute = module.__dict__.get(COMPUTE)
    if compute is not None and compute.lean:
        swap(module, FAST[type(module)][1])
    else:
        module.__dict__.pop(COMPUTE, None)
    return sets


@contextlib.contextmanager
def without_kernels(model: nn.Module) -> Iterator[None]:
    """Inside, every layer of an unfolded ``model`` takes its own class's ``forward`` on the effective weight: the reference."""
    computes = [module.compute() for module in model.modules() if isinstance(module, Fast)]
    before = [compute.plain for compute in computes]
    for compute in computes:
        compute.plain = True
    try:
        yield
    finally:
        for compute, plain in zip(computes, before, strict=True):
            compute.plain = plain


def leave_kernels(model: nn.Module) -> None:
    """Let every layer of an unfolded ``model`` take its own class's ``forward`` from now on."""
    for module in model.modules():
        if isinstance(module, Fast):
            module.compute().plain = True


def is_distributed(raw: Tensor) -> bool:
    """Whether it is a part of a tensor that several processes hold together."""
    # Looked up, not imported: torch.distributed.tensor is slow to import.
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and not torch.compiler.is_compiling() and isinstance(raw, tensors.DTensor)


def _to_be_sharded(raw: Tensor, reader: FrameType, what: str) -> Tensor:
    """The frozen parameter, for FSDP2 alone: it reads the attribute to learn what it shards."""
    if reader.f_globals.get("__name__", "").startswith("torch.distributed.fsdp."):
        return raw
    raise RuntimeError(
        f"{what} is spread over processes (a DTensor), so the effective weight cannot be formed here: with fully_shard it is there while"
        " the layer computes; for tensor parallelism merge the adapters first (vl.merge)."
    )

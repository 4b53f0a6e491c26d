"""A LoRA layer *is* the layer it adapts: its class, with the frozen parameter turned into a property."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from visionlora.common.swap import Swapped
from visionlora.lora.adapter_set import AdapterSet


class LoraLayer(Swapped):
    """A mixin that reads each adapted parameter as ``W + scaling · B A``, so that whatever the base class does with it holds.

    ``module.weight`` is the effective weight; the frozen one stays under its own key in the state dict. In-place writes to
    ``module.weight`` are lost: initialise or load before injection, or with ``load_state_dict``.
    """

    prefix = "Lora"

    @property
    def adapter_sets(self) -> dict[str, AdapterSet]:
        """The adapters of each adapted parameter: parameter name -> adapters."""
        return cast("dict[str, AdapterSet]", self._modules["lora"]._modules)  # type: ignore[union-attr]

    def raw(self, name: str) -> nn.Parameter:
        """The frozen parameter ``name`` itself."""
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


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers of ``model`` with their names; a module that stands under two names comes once."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def is_distributed(raw: Tensor) -> bool:
    """Whether ``raw`` is this process's part of a tensor that several processes hold together."""
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

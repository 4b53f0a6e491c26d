"""Fold the adapters into the weights, and take them out again, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from visionlora.lora.adapter_set import AdapterSet
from visionlora.lora.adapting import adapt, detach
from visionlora.lora.frozen import is_quantized
from visionlora.lora.layer import lora_layers

_KEPT = "_lora_kept"
_TRAINABLE = "_lora_trainable"


@dataclass
class _Kept:
    """What ``unmerge`` needs, outside the state dict: the frozen weights to the bit, and the adapters."""

    originals: dict[str, Tensor]
    sets: dict[str, AdapterSet]


def is_merged(model: nn.Module) -> bool:
    """Whether the adapters of ``model`` are merged, so that ``unmerge`` has something to do."""
    return any(True for _ in _merged(model))


@torch.no_grad()
def merge(model: nn.Module, keep: bool = True) -> nn.Module:
    """Write the effective weights into the plain layers: the model is then of its own classes, with its own keys.

    Args:
        model: with adapters; without any, nothing happens.
        keep: keep the frozen weights and adapters aside for ``unmerge``; ``False`` for export.
    """
    done: dict[int, Tensor] = {}  # by identity of the parameter: a tied weight is written once
    for _, layer in list(lora_layers(model)):
        originals: dict[str, Tensor] = {}
        for name, adapters in layer.adapter_sets.items():
            raw = layer.raw(name)
            if is_quantized(raw):
                layer._parameters[name] = nn.Parameter(adapters.effective(raw, dropout=False), requires_grad=False)
                originals[name] = raw
                continue
            if id(raw) not in done:
                done[id(raw)] = raw.detach().clone()
                _write(raw, adapters)
            originals[name] = done[id(raw)]
        sets = detach(layer)
        if keep:
            layer.__dict__[_KEPT] = _Kept(originals, sets)
    return model


@torch.no_grad()
def unmerge(model: nn.Module) -> nn.Module:
    """Undo ``merge``: the weights are as they were to the bit, and the adapters in place. Without a merge, nothing happens."""
    for module, kept in list(_merged(model)):
        for name, original in kept.originals.items():
            raw = module._parameters[name]
            assert raw is not None
            if is_quantized(original):
                module._parameters[name] = cast(nn.Parameter, original)
            else:
                raw.copy_(original)
            kept.sets[name].to(raw.device)
        del module.__dict__[_KEPT]
        adapt(module, kept.sets)
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take every adapter out; classes, keys, weights and what is trainable are then as before ``inject``."""
    unmerge(model)
    for _, layer in list(lora_layers(model)):
        detach(layer)
    trainable = model.__dict__.pop(_TRAINABLE, None)
    if trainable is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)
    return model


def take_out(model: nn.Module, name: str) -> None:
    """Take the adapter ``name`` out and leave the others."""
    for _, layer in list(lora_layers(model)):
        for adapters in layer.adapter_sets.values():
            adapters.drop(name)
        if not any(layer.adapter_sets.values()):
            detach(layer)


def remember_trainable(model: nn.Module) -> None:
    """Note which parameters are trainable before the first injection, for ``remove``."""
    model.__dict__.setdefault(_TRAINABLE, {name for name, p in model.named_parameters() if p.requires_grad})


def _write(raw: Tensor, adapters: AdapterSet) -> None:
    """Write the rows that an adapter is for, and no others, which stay as they are to the bit."""
    effective = adapters.effective(raw, dropout=False)
    for first, end in adapters.covered() or [(0, len(raw))]:
        raw[first:end] = effective[first:end]


def _merged(model: nn.Module) -> Iterator[tuple[nn.Module, _Kept]]:
    for module in model.modules():
        if _KEPT in module.__dict__:
            yield module, module.__dict__[_KEPT]

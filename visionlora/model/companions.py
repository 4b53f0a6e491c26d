"""What an adapter has beside its factors (head, norms, biases, what is known of the backbone), put in place and taken out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from visionlora.backbone.head import find_head
from visionlora.backbone.info import ATTRIBUTE
from visionlora.backbone.modules import replace_module
from visionlora.model.attached import attached


@contextlib.contextmanager
def showing(model: nn.Module, name: str) -> Iterator[None]:
    """A context in which the head and the values trained beside the adapters are those of the adapter ``name``."""
    current = attached(model).shown
    show(model, name)
    try:
        yield
    finally:
        show(model, current)


def own_keys(model: nn.Module, name: str) -> list[str]:
    """State-dict keys of what was trained with the adapter beside adapters and head."""
    companions = attached(model).companions.get(name)
    return list(companions.values) if companions else []


def base_values(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without adapters, and with the base's values where the adapter that is shown has its own."""
    return {key: value for key, value in (model.state_dict() | attached(model).base).items() if ".lora." not in key}


def show(model: nn.Module, name: str) -> None:
    """Put the head and the values of an adapter in place; those of the one before are kept as training left them."""
    kept = attached(model)
    companions = kept.companions.get(name)
    if companions is None or name == kept.shown:
        return
    stash(model)
    for module_name, module in companions.heads.items():
        like = next(model.get_submodule(module_name).parameters())
        replace_module(model, module_name, module.to(like.device, like.dtype).train(model.training))
    put_values(model, companions.values)
    if companions.info is not None:
        setattr(model, ATTRIBUTE, companions.info)
    kept.shown = name


def stash(model: nn.Module) -> None:
    """Keep the values of the adapter that is shown as training left them."""
    kept, own = attached(model), model.state_dict()
    if leaving := kept.companions.get(kept.shown):
        leaving.values = {key: own[key].clone() for key in leaving.values}


@torch.no_grad()
def put_values(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every key that some adapter has values for these values, or the base's; returns those before."""
    kept = attached(model)
    if not kept.base:
        return {}
    own = model.state_dict()
    before = {key: own[key].clone() for key in kept.base}
    for key, value in kept.base.items():
        own[key].copy_(values.get(key, value))
    return before


@torch.no_grad()
def write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into the model by state-dict key."""
    own = model.state_dict()
    for key, value in values.items():
        own[key].copy_(value)


def beside(model: nn.Module, values: Mapping[str, Tensor]) -> set[str]:
    """Those of the given state-dict keys that belong to no part of the head."""
    below = tuple(h + "." for h in find_head(model))
    return {key for key in values if not key.startswith(below)}


def trained_beside(model: nn.Module) -> set[str]:
    """State-dict keys of what is trained beside adapters and head."""
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad and ".lora." not in key}
    return beside(model, trained)

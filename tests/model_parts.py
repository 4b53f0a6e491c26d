"""The parts of a model by their names, each as what it is said to be: one that is missing, or is another, is an error."""

from __future__ import annotations

from operator import attrgetter
from types import MethodType
from typing import TypeVar

from torch import Tensor, nn

from visionlora.backbone.info import BackboneInfo, info_of
from visionlora.lora.adapter import Adapter
from visionlora.lora.adapter_set import AdapterSet
from visionlora.lora.layer import LoraLayer

Kind = TypeVar("Kind")


def part(model: nn.Module, name: str, kind: type[Kind]) -> Kind:
    """What ``model`` has as ``name``, which may lead through modules: ``layer1.0.conv1``."""
    found = attrgetter(name)(model)
    assert isinstance(found, kind), f"{name} is a {type(found).__name__}"
    return found


def tensor(model: nn.Module, name: str) -> Tensor:
    """The tensor ``name``: of an adapted parameter, the one its layer computes with."""
    return part(model, name, Tensor)


def stored(module: nn.Module, name: str = "weight") -> nn.Parameter:
    """The parameter ``name`` as the state dict has it: of an adapted one, the frozen one."""
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter


def adapters_of(model: nn.Module, layer: str = "0", parameter: str = "weight") -> AdapterSet:
    """The adapters of a layer."""
    return part(model, layer, LoraLayer).adapter_sets[parameter]


def adapter_of(model: nn.Module, layer: str = "0", name: str = "default") -> Adapter:
    """One adapter of a layer's weight."""
    return part(adapters_of(model, layer), name, Adapter)


def gradient(tensor: Tensor) -> Tensor:
    """The gradient that ``tensor`` has."""
    assert tensor.grad is not None
    return tensor.grad


def backbone_info(model: nn.Module) -> BackboneInfo:
    """The info that ``create_backbone`` left on the model."""
    found = info_of(model)
    assert found is not None
    return found


def features(model: nn.Module, x: Tensor) -> Tensor:
    """What a model of timm makes of ``x`` before its head."""
    found = part(model, "forward_features", MethodType)(x)
    assert isinstance(found, Tensor)
    return found

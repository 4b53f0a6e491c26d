"""How a model was made ready for training, as plain values that a checkpoint can hold, and another base made ready in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from visionlora import lora
from visionlora.backbone.freeze import FrozenStatistics, freeze_statistics
from visionlora.backbone.head import find_head
from visionlora.backbone.info import BackboneInfo, info_of
from visionlora.common.errors import UserError
from visionlora.common.typed import typed
from visionlora.lora.adalora import AdaLoraAdapter
from visionlora.lora.adapter import Adapter
from visionlora.lora.adaptive_config import AdaptiveConfig
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.files import adapter_of
from visionlora.lora.methods import METHODS
from visionlora.lora.slots import slots
from visionlora.model.adapters import adapter_names, new_adapter
from visionlora.model.attached import attached
from visionlora.speed.quantize import quantize, quantized


@dataclass(frozen=True)
class _Layer:
    """One adapter: the rank it has, the rank that was asked for, and its strength."""

    r: int
    wanted: int
    scaling: float


@dataclass(frozen=True)
class Layout:
    """What is done to a base before it is trained.

    Args:
        method: of the adapters, see ``LoraConfig``.
        name: of the adapter.
        layers: its layers, by name of the slot.
        trained: names of the parameters that are trained beside it.
        dropout: of the adapters.
        freeze_a: whether ``A`` stands still.
        started: whether the factors started as a part of the frozen weight, and remember that start.
        frozen_statistics: whether the statistics of norms stand still.
        quantized: whether the base is held in 8 bits.
        backbone: what is known of the base; ``None`` where it was made elsewhere.
    """

    method: str = "lora"
    name: str = "default"
    layers: dict[str, _Layer] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    dropout: float = 0.0
    freeze_a: bool = False
    started: bool = False
    frozen_statistics: bool = False
    quantized: bool = False
    backbone: BackboneInfo | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS or not all(1 <= layer.wanted <= layer.r <= 2**20 for layer in self.layers.values()):
            raise ValueError("its method or a rank is none")


def asked(model: nn.Module, config: LoraConfig | None = None) -> LoraConfig:
    """What adaptation was asked for of ``model``; remembers ``config`` where it is given.

    Of a model whose adapter was loaded or made elsewhere, what can be seen of it.
    """
    if config is not None:
        attached(model).asked = config
        return config
    if (known := attached(model).asked) is not None:
        return known
    kinds = {type(module) for module in model.modules() if isinstance(module, Adapter)}
    if kinds:
        return LoraConfig(method=next((name for name, kind in METHODS.items() if kind in kinds), "lora"))
    return LoraConfig(method="full" if all(p.requires_grad for p in model.parameters()) else "none")


def layout_of(model: nn.Module) -> Layout | None:
    """The description of how ``model`` was made ready, or ``None`` for a model with several adapters, which it cannot express."""
    found = {
        slot.name: adapter
        for slot in slots(model).values()
        for name in adapter_names(model)
        if (adapter := adapter_of(slot, name)) is not None
    }
    if len(adapter_names(model)) > 1:
        return None
    first = next(iter(found.values()), None)
    return Layout(
        method=next(name for name, kind in METHODS.items() if first is None or type(first) is kind),
        name=next(iter(adapter_names(model)), "default"),
        layers={name: _Layer(adapter.r, getattr(adapter, "wanted", adapter.r), float(adapter.scaling)) for name, adapter in found.items()},
        trained=[name for name, parameter in model.named_parameters() if parameter.requires_grad and ".lora." not in name],
        dropout=first.dropout if first else 0.0,
        freeze_a=first is not None and first.freeze_a,
        started=first is not None and first.start_A is not None,
        frozen_statistics=any(isinstance(module, FrozenStatistics) for module in model.modules()),
        quantized=quantized(model),
        backbone=info_of(model),
    )


def written(layout: Layout) -> dict[str, Any]:
    """The layout as plain values, which a checkpoint can hold."""
    return _plain(asdict(layout))  # type: ignore[no-any-return]


def read_layout(values: Any, where: str) -> Layout:
    """What ``written`` gave.

    Raises:
        UserError: it is damaged; ``where`` begins the sentence.
    """
    try:
        layout = typed(Layout, values, "layout")
        if layout.backbone is not None:
            BackboneInfo.from_dict(values["backbone"])  # its limits too
    except ValueError as error:
        raise UserError(f"{where} is damaged: {error}.") from None
    return layout


def make_ready(model: nn.Module, layout: Layout, where: str) -> nn.Module:
    """Make ``model`` ready as ``layout`` says, in place: what is trained has still to be loaded.

    Args:
        model: plain; one that has adapters is left as it is.
        layout: of the model that was trained.
        where: begins the sentence of an error.

    Raises:
        UserError: it is for another model.
    """
    if adapter_names(model):
        return model
    parameters = dict(model.named_parameters())
    absent = sorted({name for name in layout.layers if name not in slots(model)} | {n for n in layout.trained if n not in parameters})
    if absent:
        raise UserError(f"{where} is for another model: this one has no {absent[0][:80]!r}.")
    if layout.quantized and not quantized(model):
        quantize(model, find_head(model))
    if layout.layers:
        asis = AdaptiveConfig(start=1.0)
        config = LoraConfig(method=layout.method, dropout=layout.dropout, freeze_a=layout.freeze_a, adaptive=asis)
        ranks = {name: LayerRank(layer.r, layer.scaling * layer.r, explicit=True) for name, layer in layout.layers.items()}
        with torch.random.fork_rng(devices=[]), new_adapter(model, layout.name):  # the factors are replaced
            lora.inject(model, config, head=find_head(model), ranks=ranks, name=layout.name)
            _as_before(model, layout)
    for name, parameter in model.named_parameters():
        if ".lora." not in name:
            parameter.requires_grad_(name in set(layout.trained))
    if layout.frozen_statistics:
        freeze_statistics(model)
    return model


def _as_before(model: nn.Module, layout: Layout) -> None:
    known = slots(model)
    for name, layer in layout.layers.items():
        adapter = adapter_of(known[name], layout.name)
        assert adapter is not None
        if isinstance(adapter, AdaLoraAdapter):
            adapter.wanted = layer.wanted
        if layout.started:
            adapter.start_A, adapter.start_B = (factor.detach().clone() for factor in (adapter.lora_A, adapter.lora_B))


def _plain(values: Any) -> Any:
    """With lists in place of tuples, as JSON has them and ``typed`` reads them."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values

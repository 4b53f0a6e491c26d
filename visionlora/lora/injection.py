"""Turn layers of a model into LoRA layers, in place, and say what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from visionlora.errors import UserError
from visionlora.lora.adapter import Adapter, AdapterSet
from visionlora.lora.audit import audit, outputs, undisturbed
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import FrozenWeight, adapter_dtype
from visionlora.lora.layer import LoraLayer, adapt, lora_layers
from visionlora.lora.merging import is_merged, remember_trainable, take_out
from visionlora.lora.methods import METHODS
from visionlora.lora.targets import Target, exactly, select


@dataclass(frozen=True)
class LayerReport:
    """One adapted parameter: ``shape`` is the weight's own, ``parameters`` counts the adapter's."""

    name: str
    kind: str
    shape: tuple[int, ...]
    r: int
    alpha: float
    parameters: int
    capped: bool


@dataclass
class InjectReport:
    """What ``inject`` did: every layer, its rank and parameters, and what the audit noticed."""

    layers: list[LayerReport] = field(default_factory=list)
    trainable: int = 0
    total: int = 0
    zero_gradient: list[str] = field(default_factory=list)

    @property
    def adapter_parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def capped(self) -> list[LayerReport]:
        return [layer for layer in self.layers if layer.capped]

    def __str__(self) -> str:
        lines = [f"{x.name}  {x.kind}{x.shape}  r={x.r}  {x.parameters:,}" for x in self.layers]
        share = 100 * self.trainable / max(self.total, 1)
        return "\n".join([*lines, f"trainable {self.trainable:,} of {self.total:,} parameters ({share:.2f} %)"])


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """``(trainable, total)``; a shared parameter counts once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)


def inject(
    model: nn.Module,
    config: LoraConfig,
    *,
    head: Iterable[str] = (),
    also_train: Iterable[str] = (),
    example: Tensor | None = None,
    ranks: Mapping[str, LayerRank] | None = None,
    name: str = "default",
) -> InjectReport:
    """Adapt the layers ``config.targets`` chooses, in place; freeze all else but the head.

    Args:
        model: any module; its output does not change.
        config: targets, rank, alpha, dropout.
        head: names of the classifier's modules: never adapted, trained if ``config.train_head``.
        also_train: names of other modules to train whole, such as layers made anew.
        example: a batch ``(N, C, H, W)`` for the audit; ``None`` skips it.
        ranks: exact layer names with their ranks, instead of ``config.targets``.
        name: name of the adapter.

    Raises:
        UserError: see ``targets.select`` and ``audit.audit``; the model is then as it was.
    """
    if is_merged(model):
        raise UserError("the model is merged; call unmerge or remove before another injection.")
    head, also_train = tuple(head), tuple(also_train)
    taken = [layer_name for layer_name, layer in lora_layers(model) if any(name in s for s in layer.adapter_sets.values())]
    if taken:
        raise UserError(f"the model has an adapter {name!r} already (layer {taken[0]}); call remove first or give another name.")
    targets = select(model, config, (*head, *also_train)) if ranks is None else exactly(model, config, ranks)
    before: list[Tensor] = []
    if example is not None:
        with undisturbed(model), torch.no_grad():
            before = outputs(model, example)
    remember_trainable(model)
    trainable_before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    layers = _add_adapters(targets, config, name)
    for module_name in (*(head if config.train_head else ()), *also_train):
        model.get_submodule(module_name).requires_grad_(True)
    try:
        zero = audit(model, example, before, name) if example is not None else []
    except BaseException:
        take_out(model, name)
        model.requires_grad_(False)
        for parameter in trainable_before:
            parameter.requires_grad_(True)
        raise
    trainable, total = count_parameters(model)
    return InjectReport(layers, trainable, total, zero)


def _add_adapters(targets: list[Target], config: LoraConfig, name: str) -> list[LayerReport]:
    method = METHODS[config.method]
    shared: dict[int, AdapterSet] = {}  # by identity of the frozen parameter: tied weights share their adapters
    reports = []
    for target in targets:
        module, sets = target.module, {}
        for parameter in target.parameters:
            raw = module._parameters[parameter]
            assert raw is not None
            known = shared.get(id(raw)) or (module.adapter_sets.get(parameter) if isinstance(module, LoraLayer) else None)
            adapters = known or AdapterSet(method)
            if name not in adapters:
                frozen = FrozenWeight(raw)
                scaling = config.scaling(target.rank)
                adapter = Adapter(frozen.matrix_shape, target.rank.r, scaling, config.dropout, device=raw.device, dtype=adapter_dtype(raw))
                method.init(adapter, frozen)
                adapters.add(name, adapter.train(module.training))
                suffix = "" if parameter == "weight" else f".{parameter}"
                kind = module.base_class.__name__ if isinstance(module, LoraLayer) else type(module).__name__
                reports.append(
                    LayerReport(
                        target.name + suffix,
                        kind,
                        tuple(raw.shape),
                        target.rank.r,
                        target.rank.alpha,
                        adapter.parameter_count(),
                        target.capped,
                    )
                )
            shared[id(raw)] = sets[parameter] = adapters
        adapt(module, sets)
    return reports

"""Turn layers of a model into LoRA layers, in place, and say what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.lora.adaptable import TRANSPOSED
from visionlora.lora.adapter import Adapter
from visionlora.lora.adapter_set import AdapterSet
from visionlora.lora.adapting import adapt
from visionlora.lora.audit import audit, check_parts, outputs, undisturbed
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import adapter_dtype
from visionlora.lora.layer import LoraLayer, lora_layers
from visionlora.lora.merging import is_merged, remember_trainable, take_out
from visionlora.lora.methods import METHODS
from visionlora.lora.targets import Roles, Target, exactly, select


@dataclass(frozen=True)
class LayerReport:
    """One adapter: ``shape`` is the weight's own, ``parameters`` counts the adapter's."""

    name: str
    kind: str
    shape: tuple[int, ...]
    r: int
    alpha: float
    parameters: int
    capped: bool


@dataclass
class InjectReport:
    """What ``inject`` did: every layer, its rank and parameters, what was left out, and what the audit noticed."""

    layers: list[LayerReport] = field(default_factory=list)
    trainable: int = 0
    total: int = 0
    zero_gradient: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def adapter_parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def capped(self) -> list[LayerReport]:
        return [layer for layer in self.layers if layer.capped]

    def __str__(self) -> str:
        lines = [f"{x.name}  {x.kind}{x.shape}  r={x.r}{' (capped)' if x.capped else ''}  {x.parameters:,}" for x in self.layers]
        if self.left_out:
            lines.append(f"left out, an update would have more parameters than the layer: {', '.join(self.left_out)}")
        if self.note:
            lines.append(self.note)
        share = 100 * self.trainable / max(self.total, 1)
        return "\n".join([*lines, f"trainable {self.trainable:,} of {self.total:,} parameters ({share:.2f} %)"])


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """``(trainable, total)``; a shared parameter counts once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)


def adapter_parameters(model: nn.Module) -> int:
    """Of all adapters of ``model`` as they are now: AdaLoRA's grow fewer."""
    return sum(module.parameter_count() for module in model.modules() if isinstance(module, Adapter))


def inject(
    model: nn.Module,
    config: LoraConfig,
    *,
    head: Iterable[str] = (),
    also_train: Iterable[str] = (),
    never: Iterable[str] = (),
    example: Tensor | None = None,
    ranks: Mapping[str, LayerRank] | None = None,
    roles: Roles = lambda pattern: None,
    name: str = "default",
) -> InjectReport:
    """Adapt the layers ``config.targets`` chooses, in place; freeze all else but the head.

    Args:
        model: any module; its output does not change.
        config: targets, rank, alpha, dropout, method.
        head: names of the classifier's modules: never adapted, trained if ``config.train_head``.
        also_train: names of other modules to train whole, such as layers made anew.
        never: names of modules that are neither adapted nor trained, such as auxiliary heads.
        example: a batch ``(N, C, H, W)`` for the audit; ``None`` skips it.
        ranks: exact slot names with their ranks, instead of ``config.targets``.
        roles: see ``targets.Roles``.
        name: name of the adapter.

    Raises:
        UserError: see ``targets.select`` and ``audit.audit``; the model is then as it was.
    """
    if is_merged(model):
        raise UserError("the model is merged; call unmerge or remove before another injection.")
    check_name(name)
    head, also_train = tuple(head), tuple(also_train)
    taken = [layer_name for layer_name, layer in lora_layers(model) if any(name in s.names() for s in layer.adapter_sets.values())]
    if taken:
        raise UserError(f"the model has an adapter {name!r} already (layer {taken[0]}); call remove first or give another name.")
    chosen = select(model, config, (*head, *also_train, *never), roles) if ranks is None else exactly(model, ranks)
    targets = [target for target in chosen if target.rank.r > 0]
    if not targets:
        raise UserError("lora.targets: an update of any of these layers would have more parameters than the layer; choose others.")
    before: list[Tensor] = []
    if example is not None:
        with undisturbed(model), torch.no_grad():
            before = outputs(model, example)
        check_parts(model, [target.slot for target in targets if target.slot.part], example)
    remember_trainable(model)
    trainable_before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    active_before = [(s, dict(s.active)) for _, layer in lora_layers(model) for s in layer.adapter_sets.values()]
    try:
        model.requires_grad_(False)
        layers = _add_adapters(targets, config, name)
        unfreeze(model, config, head, also_train, never)
        zero, note = audit(model, example, before, name) if example is not None else ([], "")
    except BaseException:
        take_out(model, name)
        for adapters, active in active_before:
            adapters.activate(active)
        model.requires_grad_(False)
        for parameter in trainable_before:
            parameter.requires_grad_(True)
        raise
    trainable, total = count_parameters(model)
    return InjectReport(layers, trainable, total, zero, [target.slot.name for target in chosen if target.rank.r == 0], note)


def is_norm(module: nn.Module) -> bool:
    """Whether it scales and shifts normalised channels: its only parameters are vectors ``weight`` and ``bias`` of one length."""
    own = {key: p for key, p in module._parameters.items() if p is not None}
    return "weight" in own and set(own) <= {"weight", "bias"} and all(p.ndim == 1 for p in own.values())


def check_name(name: str) -> None:
    """Raise ``UserError`` unless an adapter can have that name."""
    if not name or set(name) & set(".:") or hasattr(AdapterSet(), name):
        raise UserError(f"{name!r} cannot be the name of an adapter: it is empty, has a '.' or ':' in it, or means something to PyTorch.")


def unfreeze(model: nn.Module, config: LoraConfig, head: Iterable[str], also_train: Iterable[str], never: Iterable[str] = ()) -> None:
    """Make trainable what is trained beside adapters: head, layers made anew, and norms and biases if ``config`` says so."""
    head = tuple(head)
    for module_name in (*(head if config.train_head else ()), *also_train):
        model.get_submodule(module_name).requires_grad_(True)
    left_alone = tuple(name + "." for name in (*head, *never))
    for module_name, module in model.named_modules():
        if f"{module_name}.".startswith(left_alone) and left_alone:
            continue
        for key, parameter in module._parameters.items():
            if parameter is not None and ((config.train_norm and is_norm(module)) or (config.train_bias and key.endswith("bias"))):
                parameter.requires_grad_(True)


def _add_adapters(targets: list[Target], config: LoraConfig, name: str) -> list[LayerReport]:
    sets_of: dict[int, AdapterSet] = {}  # by identity of the frozen parameter: tied weights share their adapters
    layers: dict[nn.Module, dict[str, AdapterSet]] = {}
    reports = []
    for target in targets:
        slot, module, raw = target.slot, target.slot.module, target.slot.raw
        known = module.adapter_sets.get(slot.parameter) if isinstance(module, LoraLayer) else None
        adapters = sets_of.setdefault(id(raw), known if known is not None else AdapterSet(isinstance(module, TRANSPOSED)))
        layers.setdefault(module, {})[slot.parameter] = adapters
        if slot.key(name) in adapters:
            continue  # tied
        adapters.add(slot.key(name), _new_adapter(target, config).train(module.training))
        kind = module.base_class.__name__ if isinstance(module, LoraLayer) else type(module).__name__
        size = adapters.of(name)[slot.part].parameter_count()
        reports.append(LayerReport(slot.name, kind, tuple(raw.shape), target.rank.r, target.rank.alpha, size, target.capped))
    for module, sets in layers.items():
        adapt(module, sets)
    return reports


def _new_adapter(target: Target, config: LoraConfig) -> Adapter:
    slot = target.slot
    device, dtype = slot.raw.device, adapter_dtype(slot.raw)
    kind: type[Adapter] = METHODS[config.method]
    adapter = kind.build(slot.shape, target.rank, config, rows=slot.rows, device=device, dtype=dtype)
    matrix = slot.frozen.matrix()
    adapter.reset(matrix[slice(*slot.rows)] if slot.rows else matrix, config.init)
    adapter.train_factors()
    return adapter

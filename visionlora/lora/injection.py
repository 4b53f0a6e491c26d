"""Turn layers of a model into LoRA layers, in place, and say what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.common.undo import remember_trained, undone_on_error
from visionlora.lora.adaptable import TRANSPOSED
from visionlora.lora.adapter import Adapter
from visionlora.lora.adapter_set import AdapterSet
from visionlora.lora.adapting import adapt
from visionlora.lora.audit import audit, check_parts, outputs, undisturbed
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import adapter_dtype
from visionlora.lora.inject_report import InjectReport, LayerReport
from visionlora.lora.layer import LoraLayer, lora_layers
from visionlora.lora.merging import is_merged, remember_trainable, take_out
from visionlora.lora.methods import METHODS
from visionlora.lora.targets import Roles, Target, exactly, select


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are in all; a shared parameter counts once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)


def adapter_parameters(model: nn.Module) -> int:
    """How many parameters all adapters of ``model`` have now; AdaLoRA's grow fewer during training."""
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
    head, also_train = tuple(head), tuple(also_train)
    _refuse_name(model, name)
    chosen = select(model, config, (*head, *also_train, *never), roles) if ranks is None else exactly(model, ranks)
    targets = [target for target in chosen if target.rank.r > 0]
    if not targets:
        raise UserError("lora.targets: an update of any of these layers would have more parameters than the layer; choose others.")
    before = _before(model, targets, example)
    remember_trainable(model)
    with undone_on_error() as undo:
        remember_trained(model, undo)
        for adapters in (adapters for _, layer in lora_layers(model) for adapters in layer.adapter_sets.values()):
            undo.callback(adapters.activate, dict(adapters.active))
        undo.callback(take_out, model, name)
        model.requires_grad_(False)
        layers = _add_adapters(targets, config, name)
        unfreeze(model, config, head, also_train, never)
        zero, note = audit(model, example, before, name) if example is not None else ([], "")
    return InjectReport(layers, *count_parameters(model), zero, [target.slot.name for target in chosen if target.rank.r == 0], note)


def _refuse_name(model: nn.Module, name: str) -> None:
    """Raise ``UserError`` where ``model`` cannot be given an adapter of that name."""
    if is_merged(model):
        raise UserError("the model is merged; call unmerge or remove before another injection.")
    check_name(name)
    for layer_name, layer in lora_layers(model):
        if any(name in adapters.names() for adapters in layer.adapter_sets.values()):
            raise UserError(f"the model has an adapter {name!r} already (layer {layer_name}); call remove first or give another name.")


def _before(model: nn.Module, targets: list[Target], example: Tensor | None) -> list[Tensor]:
    """The outputs before the injection; checks first that parts of fused weights are what they seem to be."""
    if example is None:
        return []
    with undisturbed(model), torch.no_grad():
        found = outputs(model, example)
    check_parts(model, [target.slot for target in targets if target.slot.part], example)
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` scales and shifts normalised channels: its only parameters are the vectors ``weight`` and ``bias``."""
    own = {key: p for key, p in module._parameters.items() if p is not None}
    return "weight" in own and set(own) <= {"weight", "bias"} and all(p.ndim == 1 for p in own.values())


def check_name(name: str) -> None:
    """Raise ``UserError`` unless an adapter can have that name."""
    if not name or set(name) & set(".:") or hasattr(AdapterSet(), name):
        raise UserError(f"{name!r} cannot be the name of an adapter: it is empty, has a '.' or ':' in it, or means something to PyTorch.")


def unfreeze(model: nn.Module, config: LoraConfig, head: Iterable[str], also_train: Iterable[str], never: Iterable[str] = ()) -> None:
    """Train what is trained beside adapters: the head, layers made anew, and norms and biases if ``config`` says so."""
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

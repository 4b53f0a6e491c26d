"""Several adapters on one backbone: each task has its adapter, head and class names; the backbone is in memory once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from visionlora import lora
from visionlora.backbone.freeze import unfreeze_statistics
from visionlora.backbone.head import find_head, head_like
from visionlora.backbone.info import ATTRIBUTE, BackboneInfo, info_of
from visionlora.backbone.modules import replace_module
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.undo import remember_trained, undone_on_error
from visionlora.lora.injection import check_name
from visionlora.lora.layer import lora_layers
from visionlora.lora.merging import is_merged, take_out
from visionlora.speed.folding import unfold

_TASKS = "_visionlora_tasks"


@dataclass
class Task:
    """What a task has beside its adapters.

    Args:
        modules: its heads by name; the very modules that stand in the model while it is the current one.
        values: of what else it trained (norms, biases, layers made anew), by state-dict key, while it is not the current one.
        info: what is known of the backbone with this head.
    """

    modules: dict[str, nn.Module]
    values: dict[str, Tensor] = field(default_factory=dict)
    info: BackboneInfo | None = None


@dataclass
class _Tasks:
    """Kept on the model, outside the state dict: only the current task's head is a part of it."""

    known: dict[str, Task] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)  # of every key that some task has values for
    current: str = ""


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters ``model`` has; a linear probe that was loaded is one without layers."""
    adapted = [name for _, layer in lora_layers(model) for s in layer.adapter_sets.values() for name in s.names()]
    return list(dict.fromkeys([*_tasks(model).known, *adapted]))


def active_adapters(model: nn.Module) -> dict[str, float]:
    """Name -> weight of the adapters that have part in the output."""
    return {name: weight for _, layer in lora_layers(model) for s in layer.adapter_sets.values() for name, weight in s.active.items()}


def activate(model: nn.Module, adapters: str | Mapping[str, float], head: str | None = None) -> None:
    """Let these adapters, and no others, have part in the output and in the training, with the head that came with them.

    Args:
        model: with adapters, not merged.
        adapters: a name, or a weighted sum ``{name: weight}``: ``W + Σ weight · ΔW``.
        head: whose head (and class names, norms, biases) to take for a sum; the first one's by default.

    Raises:
        UserError: there is no such adapter, or a DoRA is to be summed with another; nothing is changed then.
    """
    _refuse_merged(model)
    weights = {adapters: 1.0} if isinstance(adapters, str) else dict(adapters)
    for name in (*weights, *([head] if head else [])):
        _known(model, name)
    with undone_on_error() as undo:
        undo.callback(_activate, model, active_adapters(model))
        _activate(model, weights)
    for _, layer in lora_layers(model):
        for adapters_of in layer.adapter_sets.values():
            for name in adapters_of.names():
                for adapter in adapters_of.of(name).values():
                    adapter.train_factors(name in weights)
    _show(model, head or next(iter(weights), ""))


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """A context in which no adapter takes part: the output is that of the frozen backbone with the current head."""
    _refuse_merged(model)
    before = active_adapters(model)
    values = _put_values(model, {})
    _activate(model, {})
    try:
        yield model
    finally:
        _activate(model, before)
        _put_values(model, values)


def forward_mixed(model: nn.Module, images: Tensor, adapters: Sequence[str | None]) -> list[Tensor]:
    """One batch in which each image names its adapter.

    Args:
        model: with these adapters, not merged.
        images: ``(N, C, H, W)``.
        adapters: N names; ``None`` is the frozen backbone with the current head. Images of one adapter run together.

    Returns:
        N tensors ``(classes of that task,)``, in the order of the images. The active adapters are as before.
    """
    _refuse_merged(model)
    if len(adapters) != len(images):
        raise UserError(f"{len(images)} images, but {len(adapters)} names of adapters.")
    for name in adapters:
        if name is not None:
            _known(model, name)
    before, current = active_adapters(model), _tasks(model).current
    logits: dict[int, Tensor] = {}
    try:
        for name in dict.fromkeys(adapters):
            rows = [i for i, each in enumerate(adapters) if each == name]
            _show(model, name or current)
            _activate(model, {name: 1.0} if name else {})
            with disabled(model) if name is None else contextlib.nullcontext():
                logits |= dict(zip(rows, model(images[rows]), strict=True))
    finally:
        _activate(model, before)
        _show(model, current)
    return [logits[i] for i in range(len(images))]


def delete_adapter(model: nn.Module, name: str) -> None:
    """Forget an adapter and what came with it; if it was the active one, activate another."""
    _known(model, name)
    tasks = _tasks(model)
    if tasks.current == name:
        _put_values(model, {})
        tasks.current = ""
    take_out(model, name)
    tasks.known.pop(name, None)


def remove(model: nn.Module) -> nn.Module:
    """Take every adapter out and unfreeze batch-norm: the model is as before ``inject``, but for its head."""
    unfold(model)
    lora.unmerge(model)
    _put_values(model, {})
    model.__dict__.pop(_TASKS, None)
    lora.remove(model)
    unfreeze_statistics(model)
    return model


@contextlib.contextmanager
def showing(model: nn.Module, name: str) -> Iterator[None]:
    """A context in which the head and the values trained beside the adapters are those of the adapter ``name``."""
    current = _tasks(model).current
    _show(model, name)
    try:
        yield
    finally:
        _show(model, current)


def own_keys(model: nn.Module, name: str) -> list[str]:
    """State-dict keys of what the task trained beside adapters and head."""
    task = _tasks(model).known.get(name)
    return list(task.values) if task else []


def base_values(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without adapters, and with the base's values where the current task shows its own."""
    return {key: value for key, value in (model.state_dict() | _tasks(model).base).items() if ".lora." not in key}


@contextlib.contextmanager
def new_task(model: nn.Module, name: str, num_classes: int | None = None, values: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """A context in which the adapter ``name`` is injected or loaded. Afterwards it is the active one, with a head of its own.

    After an error the model is as it was.

    Args:
        model: with or without other adapters.
        name: of the new adapter.
        num_classes: of its head; ``None`` keeps the number.
        values: what its file brings beside the adapters, by state-dict key, if it comes from one.
    """
    _refuse_merged(model)
    check_name(name)
    tasks, info, again = _tasks(model), info_of(model), _tasks(model).known.get(name)
    heads = {h: model.get_submodule(h) for h in find_head(model)}
    with undone_on_error() as undo:
        remember_trained(model, undo)
        undo.callback(_activate, model, active_adapters(model))
        _stash(model)
        undo.callback(_put_values, model, _put_values(model, {}))
        undo.callback(setattr, tasks, "current", tasks.current)
        _undo_head(model, heads, info, undo)
        if again is None:
            _new_head(model, heads, num_classes)
            _activate(model, {})
        elif values is not None:
            _show(model, name)
        brought = _beside(model, values or {})
        frozen = {key: value.clone() for key, value in model.state_dict().items() if key in brought}
        undo.callback(_write, model, frozen)
        yield
    keys = {*frozen, *_trained_beside(model)}
    own = model.state_dict()
    for key in keys:  # injection trains nothing yet: what stands there now is the base's
        tasks.base.setdefault(key, frozen.get(key, own[key]).clone())
    if again is None:
        modules = {h: model.get_submodule(h) for h in heads}
        tasks.known[name] = Task(modules, {}, info_of(model))
    tasks.known[name].values = {key: own[key].clone() for key in keys}
    tasks.current = name
    _activate(model, {name: 1.0})


def _new_head(model: nn.Module, heads: Mapping[str, nn.Module], num_classes: int | None) -> None:
    """Give a new task a head of its own: the first one takes the head that is there, unless it has another number of classes."""
    if _tasks(model).known or num_classes is not None:
        for h, old in heads.items():
            replace_module(model, h, head_like(old, num_classes))
    info = info_of(model)
    if info and num_classes is not None:
        setattr(model, ATTRIBUTE, replace(info, spec=replace(info.spec, num_classes=num_classes)))


def _undo_head(model: nn.Module, heads: Mapping[str, nn.Module], info: BackboneInfo | None, undo: contextlib.ExitStack) -> None:
    if info:
        undo.callback(setattr, model, ATTRIBUTE, info)
    for h, old in heads.items():
        undo.callback(replace_module, model, h, old)


@torch.no_grad()
def _write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    for key, value in values.items():
        own[key].copy_(value)


def _beside(model: nn.Module, values: Mapping[str, Tensor]) -> set[str]:
    below = tuple(h + "." for h in find_head(model))
    return {key for key in values if not key.startswith(below)}


def _trained_beside(model: nn.Module) -> set[str]:
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad and ".lora." not in key}
    return _beside(model, trained)


def _known(model: nn.Module, name: str) -> None:
    known = adapter_names(model)
    if name not in known:
        raise UserError(f"the model has no adapter {name!r}; it has {', '.join(known) or 'none'}.{did_you_mean(name, known)}")


def _refuse_merged(model: nn.Module) -> None:
    if is_merged(model):
        raise UserError("the adapters are merged into the weights; call unmerge first.")


def _tasks(model: nn.Module) -> _Tasks:
    tasks = model.__dict__.setdefault(_TASKS, _Tasks())
    assert isinstance(tasks, _Tasks)
    return tasks


def _activate(model: nn.Module, weights: Mapping[str, float]) -> None:
    for _, layer in lora_layers(model):
        for adapters in layer.adapter_sets.values():
            adapters.activate(weights)


def _stash(model: nn.Module) -> None:
    """Keep the current task's values as training left them."""
    tasks, own = _tasks(model), model.state_dict()
    if leaving := tasks.known.get(tasks.current):
        leaving.values = {key: own[key].clone() for key in leaving.values}


def _show(model: nn.Module, name: str) -> None:
    """Put the task's head and values in place; those of the current one are kept as training left them."""
    tasks = _tasks(model)
    task = tasks.known.get(name)
    if task is None or name == tasks.current:
        return
    _stash(model)
    for module_name, module in task.modules.items():
        like = next(model.get_submodule(module_name).parameters())
        replace_module(model, module_name, module.to(like.device, like.dtype).train(model.training))
    _put_values(model, task.values)
    if task.info is not None:
        setattr(model, ATTRIBUTE, task.info)
    tasks.current = name


@torch.no_grad()
def _put_values(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every key that some task has values for these values, or the base's; returns those before."""
    tasks = _tasks(model)
    if not tasks.base:
        return {}
    own = model.state_dict()
    before = {key: own[key].clone() for key in tasks.base}
    for key, value in tasks.base.items():
        own[key].copy_(values.get(key, value))
    return before

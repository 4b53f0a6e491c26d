"""Several adapters on one backbone: each task has its adapter, head and class names; the backbone is in memory once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from visionlora import lora
from visionlora.backbone.adapt import find_head
from visionlora.backbone.freeze import unfreeze_statistics
from visionlora.backbone.info import ATTRIBUTE, BackboneInfo, info_of
from visionlora.backbone.modules import replace_module
from visionlora.errors import UserError, did_you_mean
from visionlora.lora.layer import lora_layers
from visionlora.lora.merging import is_merged, take_out

_TASKS = "_visionlora_tasks"


@dataclass
class Task:
    """What a task has beside its adapters: modules of its own (the head), values of its own (norms, biases), what is known of it."""

    modules: dict[str, nn.Module]
    values: dict[str, Tensor] = field(default_factory=dict)
    info: BackboneInfo | None = None


@dataclass
class _Tasks:
    """Kept on the model, outside the state dict: only the active task's head is a part of it."""

    known: dict[str, Task] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)  # of every key that some task has values for
    current: str = ""


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters ``model`` has."""
    return list(dict.fromkeys(name for _, layer in lora_layers(model) for s in layer.adapter_sets.values() for name in s.names()))


def active_adapters(model: nn.Module) -> dict[str, float]:
    """Name -> weight of the adapters that have part in the output."""
    return {name: weight for _, layer in lora_layers(model) for s in layer.adapter_sets.values() for name, weight in s.active.items()}


def activate(model: nn.Module, adapters: str | Mapping[str, float], head: str | None = None) -> None:
    """Let these adapters, and no others, have part in the output, with the head and class names that came with them.

    Args:
        model: with adapters, not merged.
        adapters: a name, or a weighted sum ``{name: weight}``: ``W + Σ weight · ΔW``.
        head: whose head to take for a sum; the first one's by default.

    Raises:
        UserError: there is no such adapter, or a DoRA is to be summed with another; nothing is changed then.
    """
    if is_merged(model):
        raise UserError("the adapters are merged into the weights; call unmerge before activating another.")
    weights = {adapters: 1.0} if isinstance(adapters, str) else dict(adapters)
    known = adapter_names(model)
    for name in (*weights, *([head] if head else [])):
        if name not in known:
            raise UserError(f"the model has no adapter {name!r}; it has {', '.join(known) or 'none'}.{did_you_mean(name, known)}")
    before = active_adapters(model)
    try:
        _activate(model, weights)
    except UserError:
        _activate(model, before)
        raise
    _show(model, head or next(iter(weights), ""))


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, no adapter has part in the output: the frozen backbone with the current head."""
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
        model: with these adapters.
        images: ``(N, C, H, W)``.
        adapters: N names; ``None`` is the frozen backbone with the current head. Images of one adapter run together.

    Returns:
        N tensors ``(classes of that task,)``, in the order of the images. The active adapters are as before.
    """
    if len(adapters) != len(images):
        raise UserError(f"{len(images)} images, but {len(adapters)} names of adapters.")
    before, current = active_adapters(model), _tasks(model).current
    logits: list[Tensor | None] = [None] * len(images)
    try:
        for name in dict.fromkeys(adapters):
            rows = [i for i, each in enumerate(adapters) if each == name]
            if name is None:
                _show(model, current)
            else:
                activate(model, name)
            with disabled(model) if name is None else contextlib.nullcontext():
                for i, out in zip(rows, model(images[rows]), strict=True):
                    logits[i] = out
    finally:
        _activate(model, before)
        _show(model, current)
    return [out for out in logits if out is not None]


def delete_adapter(model: nn.Module, name: str) -> None:
    """Forget an adapter and what came with it; another one is to be activated if it was the active one."""
    if name not in adapter_names(model):
        raise UserError(f"the model has no adapter {name!r}.{did_you_mean(name, adapter_names(model))}")
    take_out(model, name)
    _tasks(model).known.pop(name, None)


def remove(model: nn.Module) -> nn.Module:
    """Take every adapter out and unfreeze batch-norm: the model is as before ``inject``, but for its head."""
    _put_values(model, {})
    model.__dict__.pop(_TASKS, None)
    lora.remove(model)
    unfreeze_statistics(model)
    return model


@contextlib.contextmanager
def showing(model: nn.Module, name: str) -> Iterator[None]:
    """Inside, the head and values of the model are those of the adapter ``name``."""
    current = _tasks(model).current
    _show(model, name)
    try:
        yield
    finally:
        _show(model, current)


@contextlib.contextmanager
def new_task(model: nn.Module, name: str, num_classes: int | None, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the adapter ``name`` is to be loaded: the model has a head for it, the present one is put aside.

    Afterwards it is the active one; after an error the model is as it was.

    Args:
        model: with or without other adapters.
        name: of the new adapter.
        num_classes: of its head; ``None`` keeps the number.
        values: what its file brings beside the adapters, by state-dict key; those outside the head become the task's own.
    """
    tasks, info, own = _tasks(model), info_of(model), model.state_dict()
    heads = find_head(model)
    below = tuple(h + "." for h in heads)
    outside = {key: value for key, value in values.items() if not key.startswith(below) and key in own and own[key].shape == value.shape}
    active = active_adapters(model)
    if active and not tasks.known:
        tasks.current = next(iter(active))
        tasks.known[tasks.current] = Task({h: model.get_submodule(h) for h in heads}, _trained_in_place(model, below, outside), info)
    previous, fresh = tasks.current, name not in tasks.known
    for key in outside:
        tasks.base.setdefault(key, own[key].clone())
    if fresh:
        modules = {h: _head_like(model.get_submodule(h), num_classes) if tasks.known else model.get_submodule(h) for h in heads}
        spec = replace(info.spec, num_classes=num_classes) if info and num_classes else None
        tasks.known[name] = Task(modules, outside, replace(info, spec=spec) if info and spec else info)
    _show(model, name)
    try:
        yield
    except BaseException:
        if fresh:
            del tasks.known[name]
        _show(model, previous)
        raise
    tasks.known[name].values = outside
    _activate(model, {name: 1.0})


def _trained_in_place(model: nn.Module, below: tuple[str, ...], brought: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the first adapter, which came by injection, trained beside its head."""
    trained = {
        key: parameter.detach().clone()
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora." not in key and not key.startswith(below)
    }
    if lost := sorted(set(trained) - set(brought)):
        raise UserError(
            f"{lost[0]} was trained in place with the adapter that is there already, and its old value is gone;"
            " save that adapter, and load both into a fresh backbone."
        )
    return trained


def _head_like(old: nn.Module, num_classes: int | None) -> nn.Module:
    new = copy.deepcopy(old)
    if num_classes is not None and isinstance(new, nn.Linear) and new.out_features != num_classes:
        new = nn.Linear(new.in_features, num_classes, new.bias is not None, device=new.weight.device, dtype=new.weight.dtype)
    elif num_classes is not None and isinstance(new, nn.Conv2d) and new.out_channels != num_classes:
        bias = new.bias is not None
        new = nn.Conv2d(new.in_channels, num_classes, new.kernel_size, new.stride, new.padding, bias=bias).to(new.weight)  # type: ignore[arg-type]
    return new.train(old.training)


def _tasks(model: nn.Module) -> _Tasks:
    tasks = model.__dict__.setdefault(_TASKS, _Tasks())
    assert isinstance(tasks, _Tasks)
    return tasks


def _activate(model: nn.Module, weights: Mapping[str, float]) -> None:
    for _, layer in lora_layers(model):
        for adapters in layer.adapter_sets.values():
            adapters.activate(weights)


def _show(model: nn.Module, name: str) -> None:
    """Put the task's head and values in place."""
    tasks = _tasks(model)
    task = tasks.known.get(name)
    if task is None:  # the only one there is
        return
    device = next(model.parameters()).device
    for module_name, module in task.modules.items():
        replace_module(model, module_name, module.to(device).train(model.training))
    _put_values(model, task.values)
    if task.info is not None:
        setattr(model, ATTRIBUTE, task.info)
    tasks.current = name


@torch.no_grad()
def _put_values(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every key that a task has values for these values, or the base's; returns those before."""
    tasks = _tasks(model)
    if not tasks.base:
        return {}
    own = model.state_dict()
    before = {key: own[key].clone() for key in tasks.base}
    for key, value in tasks.base.items():
        own[key].copy_(values.get(key, value))
    return before

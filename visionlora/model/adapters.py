"""Several adapters on one backbone: each has its head and class names; the backbone is in memory once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

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
from visionlora.model import companions
from visionlora.model.attached import Companions, attached
from visionlora.speed.folding import unfold


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters ``model`` has; a head that was trained alone is one without layers."""
    adapted = [name for _, layer in lora_layers(model) for s in layer.adapter_sets.values() for name in s.names()]
    return list(dict.fromkeys([*attached(model).companions, *adapted]))


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
    companions.show(model, head or next(iter(weights), ""))


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """A context in which no adapter takes part: the output is that of the frozen backbone with the current head."""
    _refuse_merged(model)
    before = active_adapters(model)
    values = companions.put_values(model, {})
    _activate(model, {})
    try:
        yield model
    finally:
        _activate(model, before)
        companions.put_values(model, values)


def forward_mixed(model: nn.Module, images: Tensor, adapters: Sequence[str | None]) -> list[Tensor]:
    """One batch in which each image names its adapter.

    Args:
        model: with these adapters, not merged.
        images: ``(N, C, H, W)``.
        adapters: N names; ``None`` is the frozen backbone with the current head. Images of one adapter run together.

    Returns:
        N tensors ``(outputs of that adapter,)``, in the order of the images. The active adapters are as before.
    """
    _refuse_merged(model)
    if len(adapters) != len(images):
        raise UserError(f"{len(images)} images, but {len(adapters)} names of adapters.")
    for name in adapters:
        if name is not None:
            _known(model, name)
    before, current = active_adapters(model), attached(model).shown
    logits: dict[int, Tensor] = {}
    try:
        for name in dict.fromkeys(adapters):
            rows = [i for i, each in enumerate(adapters) if each == name]
            companions.show(model, name or current)
            _activate(model, {name: 1.0} if name else {})
            with disabled(model) if name is None else contextlib.nullcontext():
                logits |= dict(zip(rows, model(images[rows]), strict=True))
    finally:
        _activate(model, before)
        companions.show(model, current)
    return [logits[i] for i in range(len(images))]


def delete_adapter(model: nn.Module, name: str) -> None:
    """Forget an adapter and what came with it; if it was the active one, activate another."""
    _known(model, name)
    kept = attached(model)
    if kept.shown == name:
        companions.put_values(model, {})
        kept.shown = ""
    take_out(model, name)
    kept.companions.pop(name, None)


def remove(model: nn.Module) -> nn.Module:
    """Take every adapter out and unfreeze batch-norm: the model is as before ``inject``, but for its head."""
    unfold(model)
    lora.unmerge(model)
    companions.put_values(model, {})
    kept = attached(model)
    kept.companions, kept.base, kept.shown = {}, {}, ""
    lora.remove(model)
    unfreeze_statistics(model)
    return model


@contextlib.contextmanager
def new_adapter(model: nn.Module, name: str, num_classes: int | None = None, values: Mapping[str, Tensor] | None = None) -> Iterator[None]:
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
    kept, info, again = attached(model), info_of(model), attached(model).companions.get(name)
    heads = {h: model.get_submodule(h) for h in find_head(model)}
    with undone_on_error() as undo:
        remember_trained(model, undo)
        undo.callback(_activate, model, active_adapters(model))
        companions.stash(model)
        undo.callback(companions.put_values, model, companions.put_values(model, {}))
        undo.callback(setattr, kept, "shown", kept.shown)
        _undo_head(model, heads, info, undo)
        if again is None:
            _new_head(model, heads, num_classes)
            _activate(model, {})
        elif values is not None:
            companions.show(model, name)
        brought = companions.beside(model, values or {})
        frozen = {key: value.clone() for key, value in model.state_dict().items() if key in brought}
        undo.callback(companions.write, model, frozen)
        yield
    keys = {*frozen, *companions.trained_beside(model)}
    own = model.state_dict()
    for key in keys:  # injection trains nothing yet: what stands there now is the base's
        kept.base.setdefault(key, frozen.get(key, own[key]).clone())
    if again is None:
        modules = {h: model.get_submodule(h) for h in heads}
        kept.companions[name] = Companions(modules, {}, info_of(model))
    kept.companions[name].values = {key: own[key].clone() for key in keys}
    kept.shown = name
    _activate(model, {name: 1.0})


def _new_head(model: nn.Module, heads: Mapping[str, nn.Module], num_classes: int | None) -> None:
    """Give a new adapter a head of its own: the first one takes the head that is there, unless it has another number of classes."""
    info = info_of(model)
    same = info is not None and info.spec.num_classes == num_classes  # a detector's layers have other numbers of outputs
    if attached(model).companions or num_classes is not None:
        for h, old in heads.items():
            replace_module(model, h, head_like(old, None if same else num_classes))
    if info and num_classes is not None:
        setattr(model, ATTRIBUTE, replace(info, spec=replace(info.spec, num_classes=num_classes)))


def _undo_head(model: nn.Module, heads: Mapping[str, nn.Module], info: BackboneInfo | None, undo: contextlib.ExitStack) -> None:
    if info:
        undo.callback(setattr, model, ATTRIBUTE, info)
    for h, old in heads.items():
        undo.callback(replace_module, model, h, old)


def _known(model: nn.Module, name: str) -> None:
    known = adapter_names(model)
    if name not in known:
        raise UserError(f"the model has no adapter {name!r}; it has {', '.join(known) or 'none'}.{did_you_mean(name, known)}")


def _refuse_merged(model: nn.Module) -> None:
    if is_merged(model):
        raise UserError("the adapters are merged into the weights; call unmerge first.")


def _activate(model: nn.Module, weights: Mapping[str, float]) -> None:
    for _, layer in lora_layers(model):
        for adapters in layer.adapter_sets.values():
            adapters.activate(weights)

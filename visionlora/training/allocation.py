"""Ranks from data: what the training images say about where an update is worth its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from visionlora.backbone.freeze import has_statistics
from visionlora.backbone.head import auxiliary_heads, find_head
from visionlora.backbone.info import info_of
from visionlora.backbone.roles import Roles
from visionlora.common.errors import UserError
from visionlora.common.watching import watching
from visionlora.lora import budget
from visionlora.lora.audit import undisturbed
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import FrozenWeight
from visionlora.lora.injection import count_parameters
from visionlora.lora.layer import lora_layers
from visionlora.lora.merging import is_merged
from visionlora.lora.slots import Slot
from visionlora.lora.targets import select
from visionlora.tasks.registry import USUAL, make_task
from visionlora.tasks.task import Loss

Batches = Iterable[tuple[Tensor, Tensor]]
Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel, over images and positions."""


def allocate(
    model: nn.Module, config: LoraConfig, batches: Batches = (), reference: Batches = (), loss: Loss | None = None
) -> dict[str, LayerRank]:
    """Turn ``config.budget`` into layers and ranks by ``config.allocate``; hand them to ``inject(…, ranks=…)``.

    Args:
        model: plain, before ``inject``; it is as before afterwards.
        config: ``targets`` says which layers may have a rank at all.
        batches: ``(images, labels)`` of the new data as the model wants them, for ``importance`` and ``shift``.
        reference: the same of images like the pretraining's, for ``shift`` on a model without batch-norm; labels do not matter.
        loss: whose gradient ``importance`` looks at; by default that of a classifier.

    Raises:
        UserError: the budget does not pay for a single rank, or ``shift`` has nothing to compare with.
    """
    info = info_of(model)
    batches = list(batches)
    if config.budget is None:
        raise UserError("lora.budget is not set: there is nothing to share out.")
    if config.allocate in ("importance", "shift") and not batches:
        raise UserError(f"lora.allocate={config.allocate} looks at training images; give batches of them.")
    if any(True for _ in lora_layers(model)) or is_merged(model):
        raise UserError("allocate wants the plain model; call remove first.")
    head = find_head(model)
    outside = (*head, *(info.remade if info else ()))
    ranked = select(model, config, (*outside, *auxiliary_heads(model)), Roles(model, outside))
    slots = [target.slot for target in ranked]
    parameters = config.budget_parameters(count_parameters(model)[1])
    if config.allocate == "uniform":
        gains = budget.uniform(slots, parameters, config.method)
    elif config.allocate == "structure":
        gains = budget.structure(slots)
    elif config.allocate == "importance":
        gains = budget.by_spectrum(slots, gradient_spectra(model, slots, head[0], batches, loss or make_task(USUAL, ()).criterion()))
    else:
        shifts = distribution_shifts(model, slots, batches, reference)
        gains = budget.by_weight(slots, {slot.name: shifts[slot.name] * slot.shape[0] * slot.shape[1] for slot in slots})
    return budget.as_ranks(budget.share_out(slots, gains, parameters, config.method), config)


def gradient_spectra(
    model: nn.Module, slots: list[Slot], head: str, batches: list[tuple[Tensor, Tensor]], criterion: Loss
) -> dict[str, list[float]]:
    """Singular values, largest first, of the mean gradient of the loss with respect to each slot's matrix.

    A fresh head would send back noise, so one is fitted to the features of these very batches first, and taken out again.
    """
    totals: dict[str, Tensor] = {}
    with undisturbed(model), torch.enable_grad(), fitted_head(model, head, batches, criterion):
        weights = list({id(slot.raw): slot.raw for slot in slots}.values())
        wanted = [weight.requires_grad for weight in weights]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            for images, labels in batches:
                loss = criterion(_output(model(images)), labels)
                grads = dict(zip(map(id, weights), torch.autograd.grad(loss, weights, allow_unused=True), strict=True))
                for slot in slots:
                    if (grad := grads[id(slot.raw)]) is not None:
                        totals[slot.name] = totals.get(slot.name, 0) + grad
        finally:
            for weight, flag in zip(weights, wanted, strict=True):
                weight.requires_grad_(flag)
    spectra = {}
    for slot in slots:
        matrix = _matrix(slot, totals.get(slot.name))
        spectra[slot.name] = torch.linalg.svdvals(matrix).tolist() if matrix is not None else []
    return spectra


@contextlib.contextmanager
def fitted_head(model: nn.Module, head: str, batches: list[tuple[Tensor, Tensor]], criterion: Loss, steps: int = 100) -> Iterator[None]:
    """A context in which a linear head has the least loss on the batches' features; other kinds of head stay as they are."""
    module = model.get_submodule(head)
    if type(module) is not nn.Linear or not batches:
        yield
        return
    caught: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach().flatten(1)))
    with watching([hook]), torch.no_grad():
        for images, _ in batches:
            model(images)
    features, labels = torch.cat(caught).float(), torch.cat([labels for _, labels in batches])
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    fitted = nn.Linear(module.in_features, module.out_features).to(features.device)
    for parameter in fitted.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(fitted.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        loss = criterion(fitted((features - mean) / std), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():  # the standardisation goes into the weights
        module.weight.copy_(fitted.weight / std)
        if module.bias is not None:
            module.bias.copy_(fitted.bias - (fitted.weight / std) @ mean)
    try:
        yield
    finally:
        module.load_state_dict(before)


def distribution_shifts(model: nn.Module, slots: list[Slot], batches: Batches, reference: Batches = ()) -> dict[str, float]:
    """How far each slot's output on the new data is from what it was in pretraining.

    The squared 2-Wasserstein distance of two Gaussians in units of the old deviation, ``(μ - μ₀)²/σ₀² + (σ/σ₀ - 1)²``, averaged over
    channels. What it was is what the next batch-norm remembers; where there is none, the moments on ``reference``.

    Raises:
        UserError: there is neither.
    """
    norms = {name: module for name, module in model.named_modules() if has_statistics(module)}
    if norms:
        return _shifts_by_norm(model, slots, norms, batches)
    reference = list(reference)
    if not reference:
        raise UserError(
            "lora.allocate=shift: this model has no batch-norm that remembers its pretraining; name a folder of images like those"
            " with lora.reference=DIR, or take lora.allocate=importance."
        )
    modules = {slot.module_name: slot.module for slot in slots}
    old, new = (_moments(model, modules, b, of_input=False) for b in (reference, batches))
    by_module = {name: _distance(new[name], old[name]) for name in modules if name in new}
    return _complete(slots, by_module)


def _shifts_by_norm(model: nn.Module, slots: list[Slot], norms: dict[str, nn.Module], batches: Batches) -> dict[str, float]:
    order: list[str] = []
    watched = {slot.module_name: slot.module for slot in slots} | norms
    batches = list(batches)
    hooks = (m.register_forward_hook(lambda *_, name=name: order.append(name)) for name, m in watched.items())
    with watching(hooks), undisturbed(model), torch.no_grad():
        model(batches[0][0][:2])
    moments = _moments(model, norms, batches, of_input=True)
    by_module: dict[str, float] = {}
    waiting: list[str] = []
    for name in order:
        if name not in norms:
            waiting.append(name)
            continue
        norm = cast(Any, norms[name])
        shift = _distance(moments[name], (norm.running_mean, norm.running_var + norm.eps))
        by_module |= dict.fromkeys(waiting, shift)
        waiting = []
    return _complete(slots, by_module)


def _complete(slots: list[Slot], by_module: dict[str, float]) -> dict[str, float]:
    """Layers that nothing is known of get the mean of the others."""
    mean = sum(by_module.values()) / max(len(by_module), 1)
    return {slot.name: by_module.get(slot.module_name, mean) for slot in slots}


def _moments(model: nn.Module, modules: dict[str, nn.Module], batches: Batches, of_input: bool) -> dict[str, Moments]:
    sums: dict[str, list[Tensor]] = {}

    def watch(name: str, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        by_channel = (tensor.movedim(1, -1) if tensor.ndim == 4 and of_input else _channels_last(modules[name], tensor)).flatten(0, -2)
        by_channel = by_channel.double()
        now = [by_channel.sum(0), by_channel.square().sum(0), torch.tensor(len(by_channel))]
        sums[name] = [a + b for a, b in zip(sums[name], now, strict=True)] if name in sums else now

    hooks = (
        module.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs))
        if of_input
        else module.register_forward_hook(lambda _, __, out, name=name: watch(name, out))
        for name, module in modules.items()
    )
    with watching(hooks), undisturbed(model), torch.no_grad():
        for images, _ in batches:
            model(images)
    found = {}
    for name, (total, squares, count) in sums.items():
        mean = total / count
        found[name] = (mean, (squares / count - mean.square()).clamp_min(0))
    return found


def _channels_last(module: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1) if isinstance(module, nn.modules.conv._ConvNd) else tensor


def _distance(new: Moments, old: Moments) -> float:
    (mean, variance), (old_mean, old_variance) = new, old
    old_std = old_variance.double().clamp_min(1e-12).sqrt()
    return float((((mean - old_mean) / old_std).square() + (variance.sqrt() / old_std - 1).square()).mean())


def _matrix(slot: Slot, grad: Tensor | None) -> Tensor | None:
    if grad is None:
        return None
    whole = FrozenWeight(grad, slot.frozen.transposed).matrix()
    return whole[slice(*slot.rows)] if slot.rows else whole


def _output(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else cast(Tensor, out[0])

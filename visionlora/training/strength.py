"""After the training: how much of the update, and of the head that was trained, is kept.

A fine-tuned model between the one before and the one after is often better than both (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903, §3).
LoRA has every model between for nothing: the update is a factor away. With none of it and the probe as head, it is the probe.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from visionlora.common.console import console
from visionlora.data.module import ImageData
from visionlora.data.split import FEWEST
from visionlora.evaluation.probe import Linear, head_inputs, probe_of, set_head
from visionlora.lora.adapter import Adapter
from visionlora.lora.config import LoraConfig
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.outcome import outcome_of
from visionlora.tasks.words import in_words
from visionlora.training.adapted import Adapted
from visionlora.training.kept import Strength, Tried

UPDATES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Shares of the update that are tried; above 1 it is larger than the trained one."""
HEADS = (0.0, 0.5, 1.0)
"""Shares of the trained head that are tried; the rest is the probe's."""
MOST = 20_000
"""Training images above which all is kept: the probe alone would look at each of them once more, and the choice hardly differs from it."""

FEW = 10
"""Images a class, on average, below which the probe is kept unless another is better beyond chance."""
CHANCE = 1 / 3
"""p of the test against the trained model below which another one is kept: about one standard error."""
CHANCE_OF_FEW = 0.05
"""The same against the probe, with fewer than ``FEW`` images a class: the best of eighteen on some forty images is often best by chance."""

Outputs = Mapping[tuple[float, float], Tensor]
"""Outputs ``(N, ...)`` of each model between, by its shares of update and head."""


def why_no_line(config: LoraConfig) -> str:
    """Why there is no straight line of models from the frozen backbone to the trained one, ``""`` where there is one."""
    if config.method not in ("lora", "none"):
        return f"with lora.method={config.method} there is no straight line to the frozen backbone"
    if config.train_norm or config.train_bias:
        return "norms or biases are trained as well"
    return "" if config.train_head else "the head is not trained"


def why_no_choice(data: ImageData) -> str:
    """Why there can be no choice, ``""`` where there can; that there is a probe is asked of ``why_no_probe``."""
    return "" if data.folds or "val" in data.parts else "there is no validation part to choose by"


def why_not(data: ImageData) -> str:
    """Why a choice that there could be would not pay, ``""`` where it would."""
    if len(data.parts["train"]) > MOST:
        return f"there are more than {MOST:,} training images"
    few = FEWEST if data.folds else len(data.parts["val"])
    return f"{few} validation images are too few to choose by" if few < FEWEST else ""


def few_a_class(data: ImageData) -> bool:
    """Whether there are so few images a class that the probe is kept unless another model is shown to be better."""
    return len(data.parts["train"]) < FEW * len(data.task.counts or ())


def keep_probe(trainer: L.Trainer, adapted: Adapted, data: ImageData, start: Linear | None = None) -> Strength:
    """Leave the probe in the model: nothing of the update, and none of the trained head.

    Args:
        trainer: that has trained it.
        adapted: the trained model.
        data: its images.
        start: the probe of the frozen backbone, where it is known.
    """
    model, head = adapted.model, adapted.info.head[0]
    keep(model, 0.0)
    module = model.get_submodule(head)
    assert isinstance(module, nn.Linear)
    set_head(module, start or probe_of(trainer, model, head, data))
    return Strength(Tried(0.0, 0.0, math.nan, math.nan))


def choose_strength(trainer: L.Trainer, adapted: Adapted, data: ImageData, folds: Strength | None, start: Linear | None = None) -> Strength:
    """Leave the best model between the probe and the trained one in the model.

    Args:
        trainer: that has trained it.
        adapted: the trained model.
        data: its images.
        folds: what cross-validation chose; ``None`` to choose on the validation part.
        start: the probe of the frozen backbone, where it is known.
    """
    model, head = adapted.model, adapted.info.head[0]
    if start is None:
        with scaled(model, 0.0):
            start = probe_of(trainer, model, head, data)
    chosen = folds or choose(data, *outputs_between(trainer, model, head, data, "val", start), data.readable("val"))
    assert chosen.kept is not None
    module = model.get_submodule(head)
    assert isinstance(module, nn.Linear)
    trained = linear_of(module)
    keep(model, chosen.kept.update)
    set_head(module, between(start, trained, chosen.kept.head))
    _tell(data, chosen)
    return chosen


def outputs_between(
    trainer: L.Trainer, model: nn.Module, head: str, data: ImageData, part: str, start: Linear
) -> tuple[dict[tuple[float, float], Tensor], Tensor]:
    """Outputs of every model between for a part of the data, and the targets.

    Args:
        trainer: that predicts.
        model: as it was trained.
        head: name of its head.
        data: with the part.
        part: of the data.
        start: the head of the probe.
    """
    module = model.get_submodule(head)
    assert isinstance(module, nn.Linear)
    trained, found = linear_of(module), dict[tuple[float, float], Tensor]()
    targets = torch.empty(0)
    for update in UPDATES if _adapters(model) else (1.0,):
        with scaled(model, update):
            features, targets = head_inputs(trainer, model, head, data, part)
        for share in HEADS:
            weight, bias = between(start, trained, share)
            found[update, share] = features @ weight.T + bias
    return found, targets


def choose(data: ImageData, outputs: Outputs, targets: Tensor, images: PartImages, folds: int = 0) -> Strength:
    """The best of the models between: the trained one, unless another is better beyond a chance of one in three. With fewer than
    ``FEW`` images a class, where training was worse than the probe as often as not, it is the probe, unless another is better beyond
    one in twenty.

    With some hundred images the best of eighteen is mostly best by chance, which costs more on other images than there is to be gained.

    Args:
        data: whose task it is.
        outputs: of every model between.
        targets: of the same images.
        images: themselves.
        folds: of cross-validation, 0 for the validation part.
    """
    scores = {shares: measured(data, values, targets) for shares, values in outputs.items()}
    tried = [Tried(*shares, found[f"val/{data.task.leading().key}"], found["val/loss"]) for shares, found in scores.items()]
    found = {shares: outcome_of(data.task, "val", values, targets, images) for shares, values in outputs.items()}
    best = _best(data, tried, lambda one, other: found[one.update, one.head].p_against(found[other.update, other.head]))
    if not folds:
        return Strength(best, tried, len(targets))
    settled = data.task.settle(outputs[best.update, best.head], targets)
    return Strength(best, tried, len(targets), folds, scores[best.update, best.head], settled)


def between(start: Linear, trained: Linear, share: float) -> Linear:
    """The head that is this share of the way from one to the other."""
    return torch.lerp(start[0].float(), trained[0], share), torch.lerp(start[1].float(), trained[1], share)


def linear_of(module: nn.Linear) -> Linear:
    """Weight and bias of a head, float32 on the CPU."""
    bias = torch.zeros(module.out_features) if module.bias is None else module.bias.detach().float().cpu()
    return module.weight.detach().float().cpu().clone(), bias.clone()


def keep(model: nn.Module, share: float) -> None:
    """Let the update be this share of what it is, for good: it goes into the scaling, which every file has."""
    for adapter in _adapters(model):
        adapter.scaling *= share


@contextlib.contextmanager
def scaled(model: nn.Module, share: float) -> Iterator[None]:
    """A context in which the update is this share of what it is."""
    adapters = _adapters(model)
    before = [adapter.scaling for adapter in adapters]
    keep(model, share)
    try:
        yield
    finally:
        for adapter, scaling in zip(adapters, before, strict=True):
            adapter.scaling = scaling


def _adapters(model: nn.Module) -> list[Adapter]:
    return [module for module in model.modules() if isinstance(module, Adapter)]


def measured(data: ImageData, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``val/*`` of outputs."""
    evaluation = Evaluation(data.task, "val")
    evaluation.update(outputs, targets)
    return {key: float(value) for key, value in evaluation.compute().items()}


def _best(data: ImageData, tried: Sequence[Tried], p_of: Callable[[Tried, Tried], float | None]) -> Tried:
    """The trained model, with few images a class the probe; or the one that is preferred among those that are better beyond chance."""
    usual, chance = ((0.0, 0.0), CHANCE_OF_FEW) if few_a_class(data) else ((1.0, 1.0), CHANCE)
    sign, ordered = 1 if data.task.leading().higher else -1, sorted(tried, key=_preference(data, tried), reverse=True)
    start = next((one for one in tried if (one.update, one.head) == usual), None)
    if start is None:
        return ordered[0]
    better = (one for one in ordered if sign * one.score > sign * start.score)
    return next((one for one in better if (p := p_of(one, start)) is None or p < chance), start)


def _preference(data: ImageData, tried: Sequence[Tried]) -> Any:
    """What a better model has more of: the leading measure, its own half and its neighbours' half; and of equals, a lower loss."""
    sign = 1 if data.task.leading().higher else -1
    updates, heads = sorted({one.update for one in tried}), sorted({one.head for one in tried})

    def place(one: Tried) -> tuple[int, int]:
        return updates.index(one.update), heads.index(one.head)

    def value(one: Tried) -> tuple[float, float]:
        near = [other.score for other in tried if sum(abs(a - b) for a, b in zip(place(one), place(other), strict=True)) == 1]
        return sign * (one.score + sum(near) / len(near)) if near else sign * one.score, -one.loss

    return value


def _tell(data: ImageData, chosen: Strength) -> None:
    lead, kind, best = data.task.leading(), type(data.task), chosen.kept
    assert best is not None

    def score(update: float, head: float) -> str:
        found = next((one.score for one in chosen.tried if (one.update, one.head) == (update, head)), None)
        return "" if found is None else in_words(lead.key, found, kind)

    words = [f"{words} {found}" for words, found in (("all of both", score(1.0, 1.0)), ("the probe", score(0.0, 0.0))) if found]
    console.print(
        f"optim.strength=auto: {best.update:g} of the update and {best.head:g} of the trained head are kept: {lead.words}"
        f" {in_words(lead.key, best.score, kind)} on {chosen.where} ({', '.join(words)}).",
        highlight=False,
    )

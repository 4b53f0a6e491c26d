"""After the training: how much of the update, and of the head that was trained, is kept.

A fine-tuned model between the one before and the one after is often better than both (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903, §3).
LoRA has every model between for nothing: the update is a factor away. With none of it and the probe as head, it is the probe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from visionlora.common.console import console
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import head_inputs, probe_of, set_head, why_no_probe
from visionlora.lora.adapter import Adapter
from visionlora.lora.config import LoraConfig
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.words import in_words
from visionlora.training.adapted import Adapted

UPDATES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25)
"""Shares of the update that are tried; above 1 it is larger than the trained one."""
HEADS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the trained head that are tried; the rest is the probe's."""


@dataclass(frozen=True)
class Tried:
    """One model between the probe and the trained one, measured on the validation part.

    Args:
        update: share of the update.
        head: share of the trained head.
        score: the leading measure of the task.
        loss: of the task.
    """

    update: float
    head: float
    score: float
    loss: float


@dataclass(frozen=True)
class Strength:
    """What was kept, and all that was tried; nothing of either where all was kept without a try."""

    kept: Tried | None = None
    tried: Sequence[Tried] = ()

    @property
    def figures(self) -> dict[str, float]:
        """Keys of ``results.json``."""
        return {} if self.kept is None else {"strength/update": self.kept.update, "strength/head": self.kept.head}


def choose_strength(config: LoraConfig, trainer: L.Trainer, adapted: Adapted, data: ImageData) -> Strength:
    """Try models between the probe and the trained one on the validation part, and leave the best one in the model.

    Where nothing can be tried, a line says why.
    """
    model, head = adapted.model, adapted.info.head[0]
    why = _why_not(config, data) or why_no_probe(trainer, model, head)
    if why:
        console.print(f"optim.strength=auto is off: {why}.", highlight=False, markup=False)
        return Strength()
    module = model.get_submodule(head)
    assert isinstance(module, nn.Linear)
    trained = module.weight.detach().float().cpu(), _bias(module)
    with scaled(model, 0.0):
        start = [values.float() for values in probe_of(trainer, model, head, data)]
    tried: list[Tried] = []
    for update in UPDATES if _adapters(model) else (1.0,):
        with scaled(model, update):
            features, targets = head_inputs(trainer, model, head, data, "val")
        for share in HEADS:
            weight, bias = (torch.lerp(a, b, share) for a, b in zip(start, trained, strict=True))
            tried.append(Tried(update, share, *_measured(data, features @ weight.T + bias, targets)))
    best = max(tried, key=_preference(data))
    keep(model, best.update)
    weight, bias = (torch.lerp(a, b, best.head) for a, b in zip(start, trained, strict=True))
    set_head(module, (weight, bias))
    _tell(data, best, tried)
    return Strength(best, tried)


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


def _why_not(config: LoraConfig, data: ImageData) -> str:
    if "val" not in data.parts:
        return "there is no validation part to choose by"
    if config.method not in ("lora", "none"):
        return f"with lora.method={config.method} there is no straight line to the frozen backbone"
    if config.train_norm or config.train_bias:
        return "norms or biases were trained as well"
    return "" if config.train_head else "the head was not trained"


def _adapters(model: nn.Module) -> list[Adapter]:
    return [module for module in model.modules() if isinstance(module, Adapter)]


def _bias(module: nn.Linear) -> Tensor:
    return torch.zeros(module.out_features) if module.bias is None else module.bias.detach().float().cpu()


def _measured(data: ImageData, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
    evaluation = Evaluation(data.task, "val")
    evaluation.update(outputs, targets)
    found = evaluation.compute()
    return float(found[f"val/{data.task.lead().key}"]), float(found["val/loss"])


def _preference(data: ImageData) -> Any:
    """What a better model has more of: the leading measure; and of equals, a lower loss."""
    sign = 1 if data.task.lead().higher else -1
    return lambda one: (sign * one.score, -one.loss)


def _tell(data: ImageData, best: Tried, tried: list[Tried]) -> None:
    lead, kind = data.task.lead(), type(data.task)

    def score(update: float, head: float) -> str:
        found = next((one.score for one in tried if (one.update, one.head) == (update, head)), None)
        return "" if found is None else in_words(lead.key, found, kind)

    words = [f"{words} {found}" for words, found in (("all of both", score(1.0, 1.0)), ("the probe", score(0.0, 0.0))) if found]
    console.print(
        f"optim.strength=auto: {best.update:g} of the update and {best.head:g} of the trained head are kept: {lead.words}"
        f" {in_words(lead.key, best.score, kind)} on the {len(data.readable('val'))} validation images ({', '.join(words)}).",
        highlight=False,
    )

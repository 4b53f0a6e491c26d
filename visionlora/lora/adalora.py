"""AdaLoRA: ranks that move between layers during training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import torch
from torch import Tensor, nn

from visionlora.lora.adapter import Adapter
from visionlora.lora.adaptive_config import AdaptiveConfig
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.layer import lora_layers


class AdaLoraAdapter(Adapter):
    """AdaLoRA (Zhang et al. 2023, arXiv 2303.10512, §3.1): ``ΔW = scaling · √out · P Λ Q``, on convs as on linear layers.

    ``P = lora_B (out, r)`` and ``Q = lora_A (r, columns)`` start with orthonormal columns and rows and are held there by a
    penalty; ``Λ = diag(lora_E)`` starts at zero. ``√out`` (ours) lets a step of Adam on ``Λ`` move ``ΔW`` as far as one on ``B`` does in
    LoRA. A triplet that lost its place for good has ``alive = 0``.
    """

    lora_E: nn.Parameter
    alive: Tensor

    def __init__(self, shape: tuple[int, int], r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, r, *args, **kwargs)
        self.lora_E = nn.Parameter(self.lora_B.new_empty(r))
        self.register_buffer("alive", self.lora_B.new_ones(r))
        self.wanted = r

    @classmethod
    def build(cls, shape: tuple[int, int], rank: LayerRank, config: LoraConfig, **more: Any) -> Self:
        """An adapter that starts ``adaptive.start`` times as large as ``rank`` says, as far as the layer's size allows."""
        r = max(rank.r, min(ceil(rank.r * config.adaptive.start), cls.most(shape)))
        adapter = cls(shape, r, config.scaling(rank), config.dropout, **more)
        adapter.wanted = rank.r
        return adapter

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Fill the factors; the start is the method's own, whatever ``init`` says."""
        nn.init.orthogonal_(self.lora_A)
        nn.init.orthogonal_(self.lora_B)
        nn.init.zeros_(self.lora_E)
        self.alive.fill_(1.0)

    def up(self) -> Tensor:
        """``scaling · √out · P Λ``, ``(out, r)``."""
        scaled: Tensor = self.lora_B * (self.lora_E * self.alive) * (self.scaling * len(self.lora_B) ** 0.5)
        return scaled

    def to_lora(self) -> dict[str, Tensor]:
        """The triplets that survived, as the two factors of a LoRA; there may be none left."""
        kept = self.alive.bool()
        up = self.up() / self.scaling
        return {"lora_A": self.lora_A[kept].detach(), "lora_B": up[:, kept].detach()}

    def parameter_count(self) -> int:
        """How many parameters the triplets have that are left, ``Λ`` not counted."""
        return int(self.alive.sum()) * _cost(self)

    def witness(self) -> nn.Parameter:
        """``Λ``, because the gradients of ``P`` and ``Q`` are zero while it is."""
        return self.lora_E

    def deviation(self) -> Tensor:
        """``‖PᵀP - I‖_F + ‖QQᵀ - I‖_F``, the penalty of eq. 4 with PEFT's unsquared norms."""
        eye = torch.eye(self.r, device=self.lora_A.device, dtype=self.lora_A.dtype)
        columns: Tensor = torch.linalg.norm(self.lora_B.T @ self.lora_B - eye)
        rows: Tensor = torch.linalg.norm(self.lora_A @ self.lora_A.T - eye)
        return columns + rows


@dataclass
class _Sensitivity:
    """The smoothed ``|w ∂L/∂w|`` of each tensor of the triplets, and how much it varies (§3.2, eq. 9 to 11)."""

    mean: dict[str, Tensor]
    spread: dict[str, Tensor]


class RankAllocator:
    """Moves the budget from 1.5 times the wanted rank down to it, and to the triplets that matter (§3.2, §3.3).

    The budget is counted in parameters, not in triplets as in the paper: a triplet of a large conv costs a hundred times one of a
    small conv. It falls with the cube of the remaining time (eq. 12), and the ranks stand still in the last part of the training.

    Args:
        model: with adapters of the method ``adalora``.
        config: the schedule.
        steps: optimizer steps of the whole training.
    """

    def __init__(self, model: nn.Module, config: AdaptiveConfig, steps: int) -> None:
        self.adapters = dict(adaptive_adapters(model))
        self.config, self.steps = config, max(steps, 1)
        self.budget = sum(_cost(a) * a.wanted for a in self.adapters.values())
        zeros = {name: {key: torch.zeros_like(p) for key, p in a.named_parameters()} for name, a in self.adapters.items()}
        self.sensitivity = {name: _Sensitivity(tensors, {k: t.clone() for k, t in tensors.items()}) for name, tensors in zeros.items()}
        self.total = sum(_cost(a) * a.r for a in self.adapters.values())

    def budget_at(self, step: int) -> int:
        """How many parameters may be alive after ``step`` steps."""
        first, last = self.config.warmup * self.steps, (1 - self.config.final) * self.steps
        left = min(max((last - step) / max(last - first, 1), 0.0), 1.0)
        return round(self.budget + (self.total - self.budget) * left**3) if self.total > self.budget else self.total

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Take note of the gradients after the optimizer's step number ``step`` (from 1), and share out the budget where it is time."""
        if self.settled(step - 1):
            return
        for name, adapter in self.adapters.items():
            sensitivity = self.sensitivity[name]
            for key, parameter in adapter.named_parameters():
                if parameter.grad is not None:
                    now = (parameter * parameter.grad).abs()
                    mean, spread = sensitivity.mean[key], sensitivity.spread[key]
                    mean.lerp_(now, 1 - self.config.beta1)
                    spread.lerp_((now - mean).abs(), 1 - self.config.beta2)
        if step >= self.config.warmup * self.steps and (step % self.config.interval == 0 or self.settled(step)):
            self._allocate(self.budget_at(step), for_good=self.settled(step))

    @torch.no_grad()
    def settle(self) -> None:
        """Come down to the budget at once; this is for a training that ends before its time."""
        self._allocate(self.budget, for_good=True)

    def settled(self, step: int) -> bool:
        """Whether the ranks stand still after ``step`` steps."""
        return step >= (1 - self.config.final) * self.steps

    def _allocate(self, budget: int, for_good: bool) -> None:
        """Zero ``Λ`` of the triplets beyond the budget; until the last time they may grow again, as in the paper."""
        scored = [(score, name, index) for name in self.adapters for index, score in enumerate(self._scores(name).tolist())]
        kept = {name: torch.zeros_like(adapter.alive) for name, adapter in self.adapters.items()}
        for _, name, index in sorted(scored, reverse=True):
            cost = _cost(self.adapters[name])
            if cost <= budget:
                budget -= cost
                kept[name][index] = 1.0
        for name, adapter in self.adapters.items():
            adapter.lora_E.mul_(kept[name])
            if for_good:
                adapter.alive.copy_(kept[name])

    def _scores(self, name: str) -> Tensor:
        """``S_i = s(λ_i) + mean_j s(P_ji) + mean_j s(Q_ij)`` (eq. 7), ``(r,)``."""
        s = {key: self.sensitivity[name].mean[key] * self.sensitivity[name].spread[key] for key in ("lora_A", "lora_B", "lora_E")}
        return s["lora_E"] + s["lora_B"].mean(0) + s["lora_A"].mean(1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on: the smoothed sensitivities."""
        return {name: {"mean": s.mean, "spread": s.spread} for name, s in self.sensitivity.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state`` that ``state_dict`` returned."""
        for name, values in state.items():
            for key in ("mean", "spread"):
                for tensor, value in values[key].items():
                    getattr(self.sensitivity[name], key)[tensor].copy_(value)


def adaptive_adapters(model: nn.Module) -> Iterator[tuple[str, AdaLoraAdapter]]:
    """The AdaLoRA adapters of ``model`` with their names; the adapter of a tied weight comes once."""
    seen: set[int] = set()
    for name, layer in lora_layers(model):
        for parameter, adapters in layer.adapter_sets.items():
            for key, adapter in adapters.items():
                if isinstance(adapter, AdaLoraAdapter) and id(adapter) not in seen:
                    seen.add(id(adapter))
                    yield f"{name}.{parameter}.{key}", adapter


def _cost(adapter: Adapter) -> int:
    """How many parameters one rank has, ``Λ`` not counted: this is what it costs in the saved file."""
    return adapter.lora_A.shape[1] + adapter.lora_B.shape[0]

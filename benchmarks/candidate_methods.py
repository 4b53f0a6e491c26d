"""Prototypes of methods that are not in the package: what ``benchmarks/candidates.py`` measures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from visionlora.data.module import Batch
from visionlora.lora.adapter import Adapter
from visionlora.lora.init import kaiming
from visionlora.training.module import TaskModule


class RankDropout(Adapter):
    """LoRA that leaves out whole ranks of the update in training, each with probability ``share``; the others are scaled up."""

    share = 0.5

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """As ``Adapter.factors``, with the rows of ``V`` masked."""
        u, v = super().factors(dropout)
        if dropout and self.training:
            v = v * nn.functional.dropout(v.new_ones(len(v), 1), self.share)
        return u, v


class NoisyOutputs(Adapter):
    """LoRA with PACE's noise (Ni et al. 2024, arXiv 2409.17137): in training, each output channel of the update is multiplied by a
    number of mean 1 and deviation ``sigma``. It is drawn once for a batch, not for each image: a mean over images has the same expectation.
    """

    sigma = 1.0

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """As ``Adapter.factors``, with the rows of ``U`` multiplied."""
        u, v = super().factors(dropout)
        return (u * (1 + self.sigma * torch.randn_like(u[:, :1])) if dropout and self.training else u), v


class LeftMultiplied(Adapter):
    """``(I + s B A) W`` with ``A (r, out)``: as factors, ``U = s B`` and ``V = A W``."""

    def __init__(self, shape: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, *args, **kwargs)
        self.lora_A = nn.Parameter(self.lora_A.new_empty(self.r, shape[0]))
        self.frozen = [torch.empty(0)]  # in a list, so that it is in no state dict

    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Start ``A`` as ``kaiming`` does for a square matrix, and ``B`` as zero."""
        self.frozen = [weight.detach().clone()]
        super().reset(weight.new_empty(len(weight), len(weight)), init)

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """``s B`` and ``A W``."""
        u, v = super().factors(dropout)
        return u, v @ self.frozen[0]

    def to_lora(self) -> dict[str, Tensor]:
        """LoRA's factors: ``A W`` and ``B``."""
        return {"lora_A": (self.lora_A @ self.frozen[0]).detach(), "lora_B": self.lora_B.detach()}


class RowsStart(Adapter):
    """LoRA whose ``A`` starts as random sums of the rows of ``W``, where ``LeftMultiplied`` has its ``A W`` at the start; it goes where it
    wants from there.
    """

    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Start ``A`` as the product of what ``kaiming`` gives for a square matrix with ``W``, and ``B`` as zero."""
        super().reset(weight, init)
        with torch.no_grad():
            self.lora_A.copy_(kaiming(weight.new_empty(len(weight), len(weight)), self.r, self.scaling)[0] @ weight)


class Hadamard(Adapter):
    """``W ⊙ (1 + s B A)`` entry by entry (HiRA, Huang et al. 2025). The update has full rank: the other factor is the identity."""

    def __init__(self, shape: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, *args, **kwargs)
        self.frozen = [torch.empty(0)]

    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Keep the weight at hand, and start as LoRA does."""
        self.frozen = [weight.detach().clone()]
        super().reset(weight, init)

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """The update and the identity, on the narrower side."""
        u, v = super().factors(dropout)
        delta = self.frozen[0] * (u @ v)
        out, columns = delta.shape
        return (delta, torch.eye(columns)) if columns <= out else (torch.eye(out), delta)

    def to_lora(self) -> dict[str, Tensor]:
        """LoRA's factors, of a rank as large as the matrix has."""
        u, v = self.factors(dropout=False)
        return {"lora_A": v.detach(), "lora_B": u.detach() / self.scaling}


class InTurn(Callback):
    """Trains ``B`` and ``A`` in turn, ``B`` first, each for ``period`` steps; the other one needs no gradient then."""

    def __init__(self, period: int = 1) -> None:
        self.period = period

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        """Say which factor is trained."""
        take_turn(pl_module, trainer.global_step // self.period)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave both as they were, because what is trained is what is saved."""
        for adapter in adapters(pl_module):
            adapter.train_factors()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same before a checkpoint is written."""
        self.on_train_end(trainer, pl_module)


def take_turn(model: nn.Module, turn: int) -> None:
    """Let ``B`` be trained in even turns, ``A`` in odd ones."""
    for adapter in adapters(model):
        adapter.lora_B.requires_grad_(turn % 2 == 0)
        adapter.lora_A.requires_grad_(turn % 2 == 1)


def adapters(model: nn.Module) -> Iterator[Adapter]:
    """The adapters of ``model``."""
    return (module for module in model.modules() if isinstance(module, Adapter))


@contextlib.contextmanager
def consistent(weight: float, every: int) -> Iterator[None]:
    """In every ``every``-th step the loss is the mean of two noisy passes, plus ``weight`` times the squared distance of their logits."""
    usual = TaskModule._loss

    def loss(module: TaskModule, batch: Batch, batch_idx: int, part: slice = slice(None)) -> Tensor:
        seen: list[Tensor] = []
        hook = module.model.register_forward_hook(lambda model, inputs, logits: seen.append(logits.float()))
        try:
            first = usual(module, batch, batch_idx, part)
            if batch_idx % every:
                return first
            module(batch[0][part])
        finally:
            hook.remove()
        second = module.criterion(module.targets.fit(seen[1], "train"), batch[1][part])
        distance: Tensor = (seen[0] - seen[1]).square().sum(1).mean()
        return (first + second) / 2 + weight * distance

    with mock.patch.object(TaskModule, "_loss", loss):
        yield

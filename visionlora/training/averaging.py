"""The running average of what is trained: exponential (EMA), or of the last quarter of the steps (SWA, Izmailov et al. 2018).

SWA is arXiv 1803.05407.

Lightning's callback averages a copy of the whole module, frozen weights included; here it is as large as what is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

SWA_START = 0.75
"""Share of the steps after which SWA begins."""


class Average:
    """The average of a model's trained parameters.

    Args:
        model: whose parameters that take gradients are averaged.
        kind: ``ema`` or ``swa``.
        decay: of EMA; at the start it is lower, so that the first weights are soon forgotten (as in timm's ``ModelEmaV3``).
        steps: of the whole training.
    """

    def __init__(self, model: nn.Module, kind: str, decay: float, steps: int) -> None:
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.kind, self.decay, self.steps, self.seen = kind, decay, steps, 0
        self.in_model = False  # the model has the averages, and ``values`` the weights

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step``, counted from 1."""
        current = [parameter.detach() for parameter in self.parameters.values()]
        mean, count = list(self.values.values()), torch.tensor(self.seen, device=current[0].device)
        if (self.kind == "swa" and step <= SWA_START * self.steps) or self.seen == 0:
            for value, parameter in zip(mean, current, strict=True):
                value.copy_(parameter)
            self.seen = int(self.kind == "ema" or step > SWA_START * self.steps)
            return
        if self.kind == "swa":
            get_swa_multi_avg_fn()(mean, current, count)
        else:
            get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(mean, current, count)
        self.seen += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has the averaged weights; it may have them already, as during a validation."""
        if self.in_model:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the averaged ones."""
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = kept
        self.in_model = not self.in_model

    def state(self) -> dict[str, Tensor]:
        """What ``load`` takes: the averages and how many weights are in them."""
        return {**self.values, "seen": torch.tensor(self.seen)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``.

        Raises:
            KeyError: it is of another model.
        """
        self.seen = int(state["seen"])
        for name, value in self.values.items():
            value.copy_(state[name])

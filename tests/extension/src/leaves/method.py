"""A method: LoRA whose update is scaled row by row by a gate that is learned."""

from typing import Any

import torch
from torch import Tensor, nn

import visionlora as vl


class GatedAdapter(vl.Adapter):
    """``W + s diag(g) B A`` with a gate ``g (out,)`` that starts as ones; it is multiplied into ``B``, so all the rest is LoRA's."""

    def __init__(self, shape: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, *args, **kwargs)
        self.gate = nn.Parameter(self.lora_B.new_ones(shape[0]))

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        up, down = super().factors(dropout)  # (out, r), (r, in)
        return self.gate[:, None] * up, down

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        super().reset(weight, init)
        self.gate.fill_(1.0)

    def to_lora(self) -> dict[str, Tensor]:
        """LoRA's two factors; any library that reads LoRA reads the adapter."""
        saved = super().to_lora()
        return saved | {"lora_B": (self.gate[:, None] * self.lora_B).detach()}

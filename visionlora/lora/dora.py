"""DoRA, which learns the magnitude and the direction of each row apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visionlora.lora.adapter import Adapter
from visionlora.lora.frozen import FrozenWeight


class DoraAdapter(Adapter):
    """DoRA (Liu et al. 2024, arXiv 2402.09353, §4): ``W_eff = m ⊙ (W + s B A) / ‖W + s B A‖``, row by row.

    ``m (out,)`` starts as ``‖W‖``. The norm is a constant in the backward pass (§4.3). It is computed from the factors'
    Gram matrices, so ``B A`` is never formed for it.
    """

    def __init__(self, shape: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, *args, **kwargs)
        self.magnitude = nn.Parameter(self.lora_B.new_empty(shape[0]))

    @staticmethod
    def overhead(shape: tuple[int, int]) -> int:
        """One magnitude for each output."""
        return shape[0]

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Fill the factors as ``Adapter.reset`` does, and start the magnitude as the rows' norms."""
        super().reset(weight, init)
        self.magnitude.copy_(self._norms(FrozenWeight(weight)))

    def row_scale(self, weight: FrozenWeight) -> Tensor:
        """``m / ‖W + s B A‖``, ``(out,)``; it is exactly 1 at the start."""
        return self.magnitude / self._norms(weight)

    def to_lora(self) -> dict[str, Tensor]:
        """The update as PEFT's three tensors."""
        return super().to_lora() | {"lora_magnitude_vector": self.magnitude.detach()}

    @torch.no_grad()
    def _norms(self, weight: FrozenWeight) -> Tensor:
        return weight.row_norms(*self.factors(dropout=False))

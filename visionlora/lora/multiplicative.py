"""LoRA that multiplies the frozen weight in place of adding to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visionlora.lora.adapter import Adapter
from visionlora.lora.frozen import FrozenWeight


class MultiplicativeAdapter(Adapter):
    """``W_eff = (I + scaling · B A) W``: the outputs of the frozen layer (its bias aside) are mixed by a matrix of low rank.

    ``A`` is ``(r, out)``, ``B`` is ``(out, r)``. The update ``scaling · B (A W)`` is a LoRA whose second factor is ``A W``: it is computed,
    merged and saved as one. What it reads of the input are sums of what the frozen layer reads.
    """

    def __init__(self, shape: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shape, *args, **kwargs)
        self.lora_A = nn.Parameter(self.lora_A.new_empty(self.r, shape[0]))

    @classmethod
    def most(cls, shape: tuple[int, int]) -> int:
        """See ``Adapter.most``; a rank costs ``2 · out`` parameters."""
        out, columns = shape
        return min(out, columns // 2)

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Fill the factors as ``Adapter.reset`` does for a square matrix; not from the frozen weight (``LoraConfig`` refuses that)."""
        super().reset(weight.new_empty(len(weight), len(weight)), init)

    def right(self, v: Tensor, weight: FrozenWeight) -> Tensor:
        """``A W``, ``(r, columns)``."""
        with torch.autocast(v.device.type, enabled=False):
            w = weight.matrix()
            return v.to(w.dtype) @ w  # (r, out) @ (out, columns)

    def delta(self) -> Tensor:
        """What is added to the identity, ``scaling · B A`` as ``(out, out)``."""
        return super().delta()

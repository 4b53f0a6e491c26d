"""Adaptation methods: rules from the frozen weight and its factors to the weight the layer computes with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from visionlora.lora.frozen import FrozenWeight

if TYPE_CHECKING:
    from visionlora.lora.adapter import Adapter, AdapterSet


class Method:
    """LoRA (Hu et al. 2021, arXiv 2106.09685, §4.1), and the rule the other methods change. Stateless.

    ``W_eff = W + scaling · B A``, ``B = 0`` and ``A`` Kaiming-uniform at the start, as PEFT has it.
    """

    additive = True
    """Whether ``W_eff - W`` is ``U V`` of the factors alone: only then may a kernel keep the two apart."""

    def init(self, adapter: Adapter, weight: FrozenWeight) -> None:
        """Fill the factors of a new adapter; the effective weight must equal the frozen one."""
        nn.init.kaiming_uniform_(adapter.lora_A, a=math.sqrt(5))
        nn.init.zeros_(adapter.lora_B)

    def effective(self, weight: FrozenWeight, adapters: AdapterSet, dropout: bool = True) -> Tensor:
        """The effective weight, in the shape and dtype of the frozen one."""
        return weight.plus(*adapters.factors(dropout))


METHODS: dict[str, Method] = {"lora": Method()}

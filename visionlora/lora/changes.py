"""Where training changed the network: how much, and in how many directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.lora.frozen import dense
from visionlora.lora.layer import lora_layers


@dataclass(frozen=True)
class LayerChange:
    """One adapted parameter.

    Args:
        name: of the module.
        relative: ``‖ΔW‖ / ‖W‖``, Frobenius norms.
        effective_rank: of ``ΔW``; 0 where nothing changed.
        rank: that the active adapters could have.
    """

    name: str
    relative: float
    effective_rank: float
    rank: int


@torch.no_grad()
def changes(model: nn.Module) -> list[LayerChange]:
    """How the active adapters change each weight, in the order of the layers.

    ``ΔW`` is the effective weight less the frozen one, whatever the method; adapters that started as a part of the frozen weight (PiSSA)
    count with what training added.

    Raises:
        UserError: there are no adapters, or they are merged.
    """
    found = []
    for name, layer in lora_layers(model):
        for attribute, adapters in layer.adapter_sets.items():
            frozen = layer.raw(attribute).detach()
            raw = dense(frozen)
            delta = (adapters.effective(frozen) - raw).flatten(1).double()
            norm = float(torch.linalg.norm(raw.double()))
            label = name if attribute == "weight" else f"{name}.{attribute}"
            rank = sum(adapter.r for adapter, _ in adapters.active_adapters())
            found.append(LayerChange(label, float(torch.linalg.norm(delta)) / max(norm, 1e-30), effective_rank(delta), rank))
    if not found:
        raise UserError("the model has no adapters, or they are merged; vl.unmerge(model) brings them back.")
    return found


def effective_rank(matrix: Tensor) -> float:
    """``exp`` of the entropy of the normalised singular values (Roy and Vetterli 2007, EUSIPCO, definition 1); 0 for a zero matrix."""
    values = torch.linalg.svdvals(matrix)
    total = values.sum()
    if not total > 0:
        return 0.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))

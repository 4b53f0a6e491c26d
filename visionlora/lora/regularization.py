"""Terms of the loss that methods ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionlora.lora.adalora import AdaLoraAdapter
from visionlora.lora.adapter import Adapter
from visionlora.lora.config import LoraConfig


def regularization(model: nn.Module, config: LoraConfig) -> Tensor | None:
    """What is added to the loss; ``None`` where nothing is.

    ``delta_decay · ½ Σ (‖A‖² + ‖B‖²)`` over all adapters, and for AdaLoRA ``orthogonality`` times the mean deviation of the factors
    from orthonormal ones.
    """
    terms: list[Tensor] = []
    if config.delta_decay:
        norms = [module.squared_norm() for module in model.modules() if isinstance(module, Adapter)]
        terms += [0.5 * config.delta_decay * torch.stack(norms).sum()] if norms else []
    if config.method == "adalora" and config.adaptive.orthogonality:
        deviations = [module.deviation() for module in model.modules() if isinstance(module, AdaLoraAdapter)]
        terms.append(config.adaptive.orthogonality * torch.stack(deviations).mean())
    return torch.stack(terms).sum() if terms else None

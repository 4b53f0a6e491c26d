"""Optimizer and schedule: timm's and torch's, with parameter groups of our own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from visionlora.common.errors import UserError
from visionlora.lora.adapter import Adapter
from visionlora.runs.config import OptimConfig


def parameter_groups(model: nn.Module, head: Collection[str], config: OptimConfig, lr_ratio: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay.

    The head may have a rate of its own, ``B`` has ``lr_ratio`` times the others' (LoRA+). No decay of biases and norms, nor of factors
    that start as a part of the frozen weight: decaying those would take that part out of it.
    """
    started = {
        id(p) for module in model.modules() if isinstance(module, Adapter) and module.start_A is not None for p in module.parameters()
    }
    shares = layer_shares(model, config.layer_decay) if config.layer_decay else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = config.rate
            if any(name.startswith(h + ".") for h in head):
                rate = config.head_lr or config.rate
            elif name.endswith(".lora_B"):
                rate *= lr_ratio
            rate *= shares.get(name, 1.0)
            groups.setdefault((rate, parameter.ndim > 1 and id(parameter) not in started), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def layer_shares(model: nn.Module, decay: float) -> dict[str, float]:
    """The share of the learning rate that each parameter has: 1 in the last layer, ``decay`` in the one before it, and so on
    (Clark et al. 2020, arXiv 2003.10555, appendix A). What is a layer, timm's models say themselves.

    Raises:
        UserError: the model does not say it.
    """
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise UserError("optim.layer_decay is for classifiers of timm, which say what their layers are; this model does not. Leave it out.")
    layers = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> Optimizer:
    """timm's optimizer of that name."""
    return create_optimizer_v2(  # type: ignore[no-any-return]
        groups, opt=config.name, lr=config.rate, weight_decay=config.weight_decay, momentum=config.momentum
    )


def build_schedule(optimizer: Optimizer, config: OptimConfig, steps: int) -> LRScheduler:
    """The learning rate over ``steps`` optimizer steps, warm-up included."""
    warmup = round(config.warmup * steps)
    if config.schedule == "onecycle":
        rates, steps = [group["lr"] for group in optimizer.param_groups], max(steps, 4)
        share = min(max(warmup, 2), steps - 1) / steps  # each of its two phases needs a step
        return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=share, cycle_momentum=False)
    main = CosineAnnealingLR(optimizer, max(steps - warmup, 1)) if config.schedule == "cosine" else ConstantLR(optimizer, 1.0)
    if warmup == 0:
        return main
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup), main], [warmup])

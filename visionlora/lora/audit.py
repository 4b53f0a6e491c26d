"""After injection: the model must compute what it computed before, and every adapter must be able to learn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from visionlora.errors import UserError
from visionlora.lora.adapter import Adapter
from visionlora.lora.layer import lora_layers


def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    """All floating-point tensors ``model(example)`` returns, in eval mode, whatever the container."""
    return [t for t in pytree.tree_leaves(model(example)) if isinstance(t, Tensor) and t.is_floating_point()]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, train modes, random state and ``.grad`` are as before (buffers do not move in eval mode)."""
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def audit(model: nn.Module, example: Tensor, before: list[Tensor], adapter: str) -> list[str]:
    """Compare with the outputs ``before`` injection and ask for the gradient of every ``B`` of the adapter of that name.

    Returns:
        Names of the adapters whose gradient is zero on this batch. A note only: zero-initialised norms do that.

    Raises:
        UserError: the output changed, or an adapter has no gradient at all (the model does not use that weight).
    """
    # B, not A: with B = 0 the gradient of A is zero at the start.
    layers = [(name, parameter, s) for name, layer in lora_layers(model) for parameter, s in layer.adapter_sets.items()]
    bs = {f"{name}.{parameter}": cast(Adapter, s[adapter]).lora_B for name, parameter, s in layers if adapter in s}
    with undisturbed(model), torch.enable_grad():
        after = outputs(model, example)
        for old, new in zip(before, after, strict=True):
            scale = old.abs().max().clamp(min=1e-12)
            if not torch.allclose(old, new.detach(), rtol=0, atol=float(1e-4 * scale), equal_nan=True):
                raise UserError(
                    f"the audit failed: injecting LoRA changed the model's output by {(old - new).abs().max():.2g}"
                    " before any training; please report this model."
                )
        total = torch.stack([t.float().sum() for t in after]).sum()
        grads = torch.autograd.grad(total, list(bs.values()), allow_unused=True) if total.requires_grad else (None,) * len(bs)
    dead = [name for name, grad in zip(bs, grads, strict=True) if grad is None]
    if dead:
        raise UserError(
            f"the audit failed: the adapter of {dead[0]} would never learn, its weight has no part in the output"
            f" ({len(dead)} such layers); leave it out with lora.exclude."
        )
    return [name for name, grad in zip(bs, grads, strict=True) if grad is not None and not grad.any()]

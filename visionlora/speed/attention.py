"""Attention of short sequences on a CPU in bf16, several times faster backwards than torch's fused kernel there."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from visionlora.common.compat import softmax_gradient, traced
from visionlora.common.swap import Swapped, restore, swap
from visionlora.common.watching import watching

LONGEST = 1024
"""The longest sequence, in tokens, that is computed here; for longer ones the fused kernel, which never holds the matrix, stays."""


class _Attention(torch.autograd.Function):
    """``softmax(scale · q kᵀ) v``; the matrix of attention is made again in the backward pass, so no more is held than by the fused kernel.

    q ``(..., L, E)``, k ``(..., S, E)``, v ``(..., S, Ev)`` -> ``(..., L, Ev)``. Gradients as in Dao et al. 2022, arXiv 2205.14135, §3.1.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return _weights(q, k, scale) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        weights = _weights(q, k, ctx.scale)  # (..., L, S)
        grad_v = weights.transpose(-2, -1) @ grad
        grad_scores = softmax_gradient(grad @ v.transpose(-2, -1), weights)
        return (grad_scores @ k) * ctx.scale, (grad_scores.transpose(-2, -1) @ q) * ctx.scale, grad_v, None


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.softmax((q * scale) @ k.transpose(-2, -1), -1)


class _InPlaceOfFused(TorchFunctionMode):
    """A context in which ``F.scaled_dot_product_attention`` takes the function above where it is the faster one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _fits(args, kwargs):
            q, k, v = (t.to(_dtype(t)) for t in args)
            scale = kwargs.get("scale")
            return _Attention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)
        return func(*args, **kwargs)


def _dtype(t: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(t.device.type) if torch.is_autocast_enabled(t.device.type) else t.dtype


def _fits(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    asks = any(kwargs.get(key) for key in ("dropout_p", "is_causal", "enable_gqa"))
    if len(args) != 3 or asks or kwargs.get("attn_mask") is not None:
        return False
    q, k, v = args
    if _dtype(q).itemsize >= 4:  # the fused kernel is the faster one there
        return False
    return q.is_cpu and q.dtype == k.dtype == v.dtype and max(q.shape[-2], k.shape[-2]) <= LONGEST and any(t.requires_grad for t in args)


class UnfusedAttention(Swapped):
    """A mixin for a module that calls ``F.scaled_dot_product_attention`` itself; the fused kernel is left out where that is faster."""

    prefix = "Unfused"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        elsewhere = not args or not args[0].is_cpu or not torch.is_grad_enabled()
        if elsewhere or traced():
            return super().forward(*args, **kwargs)
        with _InPlaceOfFused():
            return super().forward(*args, **kwargs)


class AttentionCallers(TorchFunctionMode):
    """A context in which a forward pass shows who calls attention: ``found`` has the modules."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: set[nn.Module] = set()
        self._stack: list[nn.Module] = []
        self._hooks = contextlib.ExitStack()
        for module in model.modules():
            both = (module.register_forward_pre_hook(self._enters), module.register_forward_hook(self._left, always_call=True))
            self._hooks.enter_context(watching(both))

    def _enters(self, module: nn.Module, args: Any) -> None:
        self._stack.append(module)

    def _left(self, module: nn.Module, args: Any, out: Any) -> None:
        self._stack.pop()  # returned, it would be taken for the output where it is false: an empty Sequential is

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and self._stack:
            self.found.add(self._stack[-1])
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]


def use_unfused(module: nn.Module) -> None:
    """Let ``module`` compute its attention without the fused kernel where that is faster.

    Args:
        module: it calls ``F.scaled_dot_product_attention`` itself.
    """
    if not isinstance(module, Swapped):
        swap(module, UnfusedAttention)


def use_fused(module: nn.Module) -> None:
    """Undo ``use_unfused``."""
    if isinstance(module, UnfusedAttention):
        restore(module)

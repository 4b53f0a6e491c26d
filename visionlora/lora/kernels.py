"""Fast paths: ``layer(x, W + U V)`` for plain linear and conv layers, without holding ``W + U V`` for the backward pass.

Pure functions of the input, the frozen weight and the joined factors, so that several adapters, weighted sums and dropout
come for free. They are exact up to rounding; the property of ``layer.py`` is the reference.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, u: Tensor, v: Tensor) -> Tensor:
    """``x (..., in)`` -> ``(..., out)`` with ``u (out, r)``, ``v (r, in)``."""
    return F.linear(x, weight, bias) + F.linear(F.linear(x, v.to(x.dtype)), u.to(x.dtype))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    u: Tensor,
    v: Tensor,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """``x (N, in, H, W)`` -> ``(N, out, H', W')`` for an ungrouped conv: a conv down to rank r, then a 1×1 conv up."""
    down = v.view(-1, *weight.shape[1:]).to(x.dtype)  # (r, in·kh·kw) -> (r, in, kh, kw)
    low = F.conv2d(x, down, None, stride, padding, dilation)  # (N, r, H', W')
    return F.conv2d(x, weight, bias, stride, padding, dilation) + F.conv2d(low, u.to(x.dtype)[:, :, None, None])

"""Fast paths: ``layer(x, scale ⊙ (W + U V))`` for plain linear and conv layers, without holding ``W + U V`` for the backward pass.

Pure functions of the input, the frozen weight and the joined factors, so that several adapters, weighted sums and dropout
come for free, and DoRA's row scale is one more product. They are exact up to rounding; the property of ``layer.py`` is the reference.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, u: Tensor, v: Tensor, scale: Tensor | None = None) -> Tensor:
    """``x (..., in)`` -> ``(..., out)`` with ``u (out, r)``, ``v (r, in)``, ``scale (out,)``."""
    low = F.linear(F.linear(x, v.to(x.dtype)), u.to(x.dtype))
    if scale is None:
        return F.linear(x, weight, bias) + low
    return _scaled(F.linear(x, weight) + low, scale, bias)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    u: Tensor,
    v: Tensor,
    scale: Tensor | None,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """``x (N, in, H, W)`` -> ``(N, out, H', W')`` for an ungrouped conv: a conv down to rank r, then a 1×1 conv up."""
    down = v.view(-1, *weight.shape[1:]).to(x.dtype)  # (r, in·kh·kw) -> (r, in, kh, kw)
    low = F.conv2d(F.conv2d(x, down, None, stride, padding, dilation), u.to(x.dtype)[:, :, None, None])  # (N, out, H', W')
    if scale is None:
        return F.conv2d(x, weight, bias, stride, padding, dilation) + low
    y = F.conv2d(x, weight, None, stride, padding, dilation) + low
    return _scaled(y, scale[:, None, None], None if bias is None else bias[:, None, None])


def _scaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    # In the scale's float32: rounded to bf16, a small change of a magnitude would vanish.
    scaled = y * scale
    return (scaled if bias is None else scaled + bias).to(y.dtype)

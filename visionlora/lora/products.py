"""The products of a linear or conv layer and their gradients, and the layouts between them: pixels as rows, columns of weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionlora.common.compat import convolution_gradients
from visionlora.lora.frozen import adapter_dtype


class Conv(NamedTuple):
    """A conv's geometry."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


def subsampled(x: Tensor, conv: Conv | None, raw: Tensor) -> tuple[Tensor, Conv | None]:
    """A pointwise conv with a stride as one without, of every so manieth pixel.

    That is less work, and the CPU's own kernel for the weight's gradient of a strided one writes beyond its memory where the input has
    few channels.
    """
    if conv is None or conv.stride == (1, 1) or raw.shape[2:] != (1, 1) or any(conv.padding):
        return x, conv
    picked = x[:, :, :: conv.stride[0], :: conv.stride[1]].contiguous(memory_format=torch.channels_last)
    return picked, conv._replace(stride=(1, 1))


def subsampled_conv(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``nn.Conv2d._conv_forward``, differentiable in all; a strided pointwise conv as ``subsampled`` has it."""
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        picked, geometry = subsampled(x, Conv(conv.stride, conv.padding, conv.dilation, conv.groups), weight)
        if picked is not x and geometry is not None:
            return product(picked, weight, bias, geometry)
    return nn.Conv2d._conv_forward(conv, x, weight, bias)  # type: ignore[no-any-return]


def product(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv | None, out: Tensor | None = None) -> Tensor:
    """With ``out``, rows of pixels are written into these pictures and returned as rows."""
    if conv is not None:
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    weight = weight.flatten(1)
    if out is None:
        return F.linear(x, weight, bias)
    rows, y = pixels(x, None), out.permute(0, 2, 3, 1).flatten(0, 2)
    return torch.mm(rows, weight.t(), out=y) if bias is None else torch.addmm(bias, rows, weight.t(), out=y)


def input_gradient(grad: Tensor, like: Tensor, weight: Tensor, conv: Conv | None) -> Tensor:
    return grad @ weight.flatten(1) if conv is None else convolution_backward(grad, like, weight, conv, 0)


def weight_gradient(grad: Tensor, x: Tensor, raw: Tensor, conv: Conv | None) -> Tensor:
    """``(out, columns)``, columns as in ``rows_of``."""
    if conv is None:
        return pixels(grad, None).t() @ pixels(x, None)
    return convolution_backward(grad, x, shape_of(x, raw.shape), conv, 1).permute(0, 2, 3, 1).flatten(1)


def filter_gradient(down: Tensor, grad: Tensor, x: Tensor, raw: Tensor, conv: Conv | None, rank: int) -> Tensor:
    """``(r, columns)``; ``down`` is ``∂y U``, or that shifted."""
    if conv is None:
        return tall(down, pixels(x, None))
    if down.shape[1] != rank:
        _, inputs, kh, kw = raw.shape
        by_shift = tall(down, pixels(x, conv)).view(kh, kw, rank, inputs)
        return by_shift.flip(0, 1).permute(2, 3, 0, 1).reshape(rank, -1)
    return convolution_backward(like_pixels(down, grad), x, shape_of(x, (rank, *raw.shape[1:])), conv, 1).reshape(rank, -1)


def add_input_gradient(grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor, raw: Tensor, conv: Conv | None) -> None:
    """Add what comes through ``V``, in place."""
    if conv is None:
        add_product(grad_x, down, v, conv)
    elif down.shape[1] != len(v):
        by_shift = v.view(-1, *raw.shape[1:]).flip(2, 3).permute(2, 3, 0, 1).reshape(-1, raw.shape[1])
        add_product(grad_x, down, by_shift, conv)
    else:
        grad_x += input_gradient(like_pixels(down, grad), grad_x, filters(v, raw, conv), conv)


def add_product(y: Tensor, rows: Tensor, matrix: Tensor, conv: Conv | None) -> None:
    """Add ``rows @ matrix`` to the pixels of ``y``, in place."""
    if conv is None or y.is_contiguous(memory_format=torch.channels_last):
        pixels(y, conv).addmm_(rows, matrix)
    else:
        y += like_pixels(rows @ matrix, y)


def shifts(raw: Tensor, conv: Conv | None, down: Tensor) -> bool:
    """Whether the gradient of the filters is better had as a product with shifted copies than as a conv's.

    CPU libraries are slow at the gradient of few filters. The copies must be narrower than the input, and the stride one.
    """
    if conv is None or conv.stride != (1, 1) or conv.dilation != (1, 1) or not down.is_cpu:
        return False
    _, inputs, kh, kw = raw.shape
    return kh > conv.padding[0] and kw > conv.padding[1] and kh * kw * down.shape[1] <= 1.25 * inputs


def shifted(down: Tensor, grad: Tensor, raw: Tensor, conv: Conv) -> Tensor:
    """``(P, r)`` of the output's pixels -> ``(P of the input, kh · kw · r)``: what each input pixel meets, last shift first."""
    (n, _, height, width), (kh, kw), rank = grad.shape, raw.shape[2:], down.shape[1]
    beyond_h, beyond_w = kh - 1 - conv.padding[0], kw - 1 - conv.padding[1]
    padded = F.pad(down.view(n, height, width, rank), (0, 0, beyond_w, beyond_w, beyond_h, beyond_h))
    steps = padded.stride()
    shape = (n, height + 2 * beyond_h - kh + 1, width + 2 * beyond_w - kw + 1, kh, kw * rank)
    return padded.as_strided(shape, (steps[0], steps[1], steps[2], steps[1], 1)).reshape(-1, kh * kw * rank)


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, conv: Conv, which: int) -> Tensor:
    """The gradient of the input (``which = 0``) or of the weight (1)."""
    dtype = grad.dtype
    if grad.is_cpu and conv.groups > 1 and dtype.itemsize < 4 and (which == 1 or conv.stride != (1, 1)):
        # CPU libraries have no fast bf16 kernels for these: several times slower than float32 with the casts.
        grad, weight = grad.float(), weight.float()
        x = x.float() if which == 1 else shape_of(grad, tuple(x.shape))
    wanted = (which == 0, which == 1)
    grads = convolution_gradients(grad, x, weight, conv.stride, conv.padding, conv.dilation, conv.groups, wanted)
    return grads[which].to(dtype)


def tall(narrow: Tensor, wide: Tensor) -> Tensor:
    """``narrowᵀ wide`` of ``(P, r)`` and ``(P, n)``. Of very many rows as a sum over parts, which libraries do faster."""
    rows = len(wide)
    parts = min(math.gcd(rows, 8), rows // 1024)
    if parts < 2 or rows % parts:
        return narrow.t() @ wide
    products = torch.bmm(narrow.view(parts, rows // parts, -1).transpose(1, 2), wide.view(parts, rows // parts, -1))
    return products.sum(0, dtype=adapter_dtype(wide))


def pictures(rows: Tensor, raw: Tensor) -> Tensor:
    """Room for ``(N, out, H, W)``, channels_last; not a view, so that what comes next may write in place."""
    n, height, width, _ = rows.shape
    return torch.empty((n, len(raw), height, width), dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)


def shape_of(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that takes no memory, where only the shape of a channels_last one is asked for."""
    n, channels, height, width = shape
    return t.new_empty(1).expand(n, height, width, channels).permute(0, 3, 1, 2)


def positions(x: Tensor, raw: Tensor, conv: Conv | None) -> int:
    if conv is None:
        return x.numel() // x.shape[-1]
    (height, width), (kh, kw), stride, padding, dilation = x.shape[2:], raw.shape[2:], conv.stride, conv.padding, conv.dilation
    tall = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    return len(x) * tall * ((width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1)


def pixels(t: Tensor, conv: Conv | None) -> Tensor:
    """Rows of channels: a view of tokens, and of channels_last pictures."""
    return t.flatten(0, -2) if conv is None else t.permute(0, 2, 3, 1).flatten(0, 2)


def like_pixels(rows: Tensor, picture: Tensor) -> Tensor:
    """``pixels`` of a conv undone, with the shape of ``picture`` but for the channels."""
    n, _, height, width = picture.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def rows_of(v: Tensor, raw: Tensor) -> Tensor:
    """Columns in the order of channels_last weights, ``kh · kw · in``."""
    return v if raw.ndim == 2 or v.shape[1] == raw.shape[1] else v.view(-1, *raw.shape[1:]).permute(0, 2, 3, 1).flatten(1)


def columns_of(rows: Tensor, raw: Tensor) -> Tensor:
    """``rows_of`` undone."""
    if raw.ndim == 2 or rows.shape[1] == raw.shape[1]:
        return rows
    _, inputs, height, width = raw.shape
    return rows.view(-1, height, width, inputs).permute(0, 3, 1, 2).flatten(1)


def filters(v: Tensor, raw: Tensor, conv: Conv | None) -> Tensor:
    return v if conv is None else v.view(-1, *raw.shape[1:]).contiguous(memory_format=torch.channels_last)


def shaped(matrix: Tensor, raw: Tensor) -> Tensor:
    """A matrix with columns as in ``rows_of`` in the shape of ``raw``."""
    if raw.ndim == 2:
        return matrix
    out, inputs, height, width = raw.shape
    return matrix.view(out, height, width, inputs).permute(0, 3, 1, 2)

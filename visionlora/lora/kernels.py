"""Fast paths: ``layer(x, W + U V)`` for linear and conv layers, with as little work and memory as the gradients of ``U`` and ``V`` need.

The frozen weight gets no gradient, so nothing is held or computed for one. Two ways forward and two back, chosen by shapes:

- *formed*: ``W + U V`` is made, in float32 and rounded once, and used in both directions; or *beside*: the product with ``U V`` is added
  to the product with ``W``, at low rank.
- back, *by factors*: ``∂U = ∂yᵀ (x Vᵀ)`` and ``∂V = (∂y U)ᵀ x``; or *whole*: ``∂W = ∂yᵀ x`` first, ``∂U = ∂W Vᵀ``, ``∂V = Uᵀ ∂W``: for
  narrow layers fewer passes over the activations. (Cf. RunLoRA, Cherniuk et al. 2023, arXiv 2312.03415, §3.)

Pure functions of the input, the frozen weight and the joined factors, so that several adapters, weighted sums and dropout come for
free. They are exact up to rounding; the property of ``layer.py`` is the reference. Where a method scales rows (DoRA), and while
tracing (``torch.compile``, ``torch.func``), plain differentiable code takes their place.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from visionlora.lora.cheap import Recipe, recipe_of
from visionlora.lora.compute import Compute, Copies, compute_dtype
from visionlora.lora.frozen import FrozenWeight, adapter_dtype, is_quantized


class Conv(NamedTuple):
    """A conv's geometry."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


class Layer(NamedTuple):
    """A frozen layer: its parameters, and its copies of them."""

    raw: Tensor
    bias: Tensor | None
    compute: Compute
    conv: Conv | None = None


class Plan(NamedTuple):
    """Which way forward and back."""

    formed: bool
    whole: bool


def plan(layer: Layer, rank: int, positions: int) -> Plan:
    """The cheaper ways for so many rows (tokens, or pixels of the output) in all.

    Forming costs passes over the weight, a product beside costs passes over the output and over the input's gradient. By factors, the
    narrow products cost as much as a pass however small the rank; the whole gradient costs by its narrower side.
    """
    raw, grouped = layer.raw, layer.conv is not None and layer.conv.groups > 1
    out, columns = raw.shape[0], raw.numel() // raw.shape[0]
    formed = raw.dtype.itemsize >= 4 and not is_quantized(raw) and 14 * raw.numel() < 4 * (out + raw.shape[1]) * positions
    return Plan(formed=grouped or formed, whole=grouped or min(out, columns) <= max(48, 4 * rank))


def fits(x: Tensor, layer: Layer) -> bool:
    """Whether ``x`` is a batch of what the layer takes."""
    return x.ndim == 4 if layer.conv is not None else x.ndim >= 2


def frozen(x: Tensor, layer: Layer) -> Tensor:
    """The layer without adapters; its input is not held for the backward pass where its weight is frozen."""
    raw, bias, compute, conv = layer
    dtype = compute_dtype(x, raw)
    copies = compute.at(raw, bias, dtype)
    x = x.to(dtype)
    if raw.requires_grad:
        weight = raw if copies.scale is None else raw * copies.scale.view(-1, *[1] * (raw.ndim - 1))
        return _product(x, weight.to(dtype), copies.bias, conv)
    if conv is None or not x.requires_grad or (bias is not None and bias.requires_grad) or _traced():
        return _product(x, copies.weight, copies.bias, conv)
    y: Tensor = _Frozen.apply(x, copies.weight, copies.bias, conv)
    return y


def adapted(x: Tensor, layer: Layer, u: Tensor, v: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """``x (..., in)`` -> ``(..., out)``, or ``(N, in, H, W)`` -> ``(N, out, H', W')``, with ``u (out, r)``, ``v (r, columns)``."""
    bias_learns = layer.bias is not None and layer.bias.requires_grad
    dtype = compute_dtype(x, layer.raw)
    copies = layer.compute.at(layer.raw, layer.bias, dtype)
    if row_scale is not None or bias_learns or _traced():
        with torch.autocast(x.device.type, enabled=False):
            return _differentiable(x.to(dtype), layer, copies, u, v, row_scale)
    y: Tensor = _Adapted.apply(x, u, v, layer, copies, torch.is_grad_enabled(), recipe_of(x) if layer.compute.light else None)
    return y


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


class _Frozen(torch.autograd.Function):
    """A conv whose weight is frozen: torch's own would hold the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv) -> Tensor:
        ctx.weight, ctx.conv, ctx.shape = weight, conv, x.shape
        return _product(x, weight, bias, conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.to(ctx.weight.dtype).contiguous(memory_format=torch.channels_last)
        return _input_gradient(grad, _shape_of(grad, ctx.shape), ctx.weight, ctx.conv), None, None, None


class _Adapted(torch.autograd.Function):
    """Holds the input in the compute dtype, and what is of low rank or smaller than the layer's activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, v: Tensor, layer: Layer, copies: Copies, keep: bool, recipe: Recipe | None) -> Tensor:
        raw, conv, dtype = layer.raw, layer.conv, copies.dtype
        x = x.to(dtype)
        shape, rank = x.shape, u.shape[1]
        flat = conv is not None and _is_pointwise(layer) and x.is_contiguous(memory_format=torch.channels_last)
        if flat:  # a linear layer of its pixels
            x, conv = x.permute(0, 2, 3, 1), None
        formed, whole = plan(layer, rank, _positions(x, raw, conv))
        if whole and not ctx.needs_input_grad[2] and not (conv and conv.groups > 1):
            whole = False  # with A frozen the input need not be held
        scaled = _scaled(u, copies)
        weight = low = None
        if formed:
            weight = _formed(copies, scaled, v, raw)
        y = _pictures(x, raw) if flat else None
        product = _product(x, copies.weight if weight is None else weight, copies.bias, conv, y)
        if not formed or (keep and not whole):
            low = _product(x, _filters(v, raw, conv).to(dtype), None, conv)
        if low is not None and not formed:
            _add_product(product, _pixels(low, conv), scaled.to(dtype).t(), conv)
        if keep:
            held = None if not (whole or ctx.needs_input_grad[2]) else x if recipe is None else recipe.source
            ctx.save_for_backward(held, u, v, None if whole else low, None if layer.compute.light else weight)
            ctx.recipe = None if recipe is None else recipe.module
            ctx.raw, ctx.copies, ctx.conv, ctx.plan, ctx.shape, ctx.flat = raw, copies, conv, Plan(formed, whole), shape, flat
        return product if y is None else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, u, v, low, weight = ctx.saved_tensors
        raw, copies, conv, (formed, whole) = ctx.raw, ctx.copies, ctx.conv, ctx.plan
        needs_x, needs_u, needs_v = ctx.needs_input_grad[:3]
        if ctx.recipe is not None and x is not None:
            x = Recipe(ctx.recipe, x)().to(copies.dtype)
            if ctx.flat:
                x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        dtype, scale = copies.dtype, copies.scale
        grad = grad.to(dtype)
        if ctx.flat:
            grad = grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        elif conv is not None:
            grad = grad.contiguous(memory_format=torch.channels_last)
        rows = _pixels(grad, conv)
        scaled = _scaled(u, copies)
        grad_x = grad_u = grad_v = down = None
        if (needs_v and not whole) or (needs_x and not formed):
            down = rows @ scaled.to(dtype)  # (P, out) @ (out, r)
            if _shifts(raw, conv, down):
                down = _shifted(down, grad, raw, cast(Conv, conv))
        if whole:
            grad_w = _weight_gradient(grad, x, raw, conv).to(scaled.dtype)  # (out, columns)
            grad_u = grad_w @ _rows_of(v.to(scaled.dtype), raw).t() if needs_u else None
            grad_v = _columns_of(scaled.t() @ grad_w, raw) if needs_v else None
        else:
            grad_u = _tall(_pixels(low, conv), rows).to(scaled.dtype).t() if needs_u else None
            if needs_v and down is not None:
                grad_v = _filter_gradient(down, grad, x, raw, conv, u.shape[1])
        if needs_x:
            like = _shape_of(grad, ctx.shape) if x is None and conv is not None else x
            if formed and weight is None:
                weight = _formed(copies, scaled, v, raw)
            grad_x = _input_gradient(grad, like, copies.weight if weight is None else weight, conv)
            if not formed and down is not None:
                _add_input_gradient(grad_x, down, grad, v.to(dtype), raw, conv)
            if ctx.flat:
                grad_x = grad_x.permute(0, 3, 1, 2)
        if grad_u is not None:
            grad_u = (grad_u if scale is None else grad_u * scale[:, None]).to(u.dtype)
        return grad_x, grad_u, None if grad_v is None else grad_v.to(v.dtype), None, None, None, None


def _differentiable(x: Tensor, layer: Layer, copies: Copies, u: Tensor, v: Tensor, row_scale: Tensor | None) -> Tensor:
    """The same in plain operations, row scales included."""
    raw, conv, dtype, scale = layer.raw, layer.conv, copies.dtype, copies.scale
    if conv is not None and conv.groups > 1:
        weight = FrozenWeight(raw).plus(u, v, row_scale)
        return _product(x, (weight if scale is None else weight * scale[:, None, None, None]).to(dtype), copies.bias, conv)
    u = _scaled(u, copies).to(dtype)
    low = _product(x, v.view(-1, *raw.shape[1:]).to(dtype), None, conv)
    low = F.linear(low, u) if conv is None else F.conv2d(low, u[:, :, None, None])
    if row_scale is None:
        return _product(x, copies.weight, copies.bias, conv) + low
    y = _product(x, copies.weight, None, conv) + low
    per_channel = (-1,) if conv is None else (-1, 1, 1)
    # In the scale's float32: rounded to bf16, a small change of a magnitude would vanish.
    y = y * row_scale.view(per_channel)
    return (y if copies.bias is None else y + copies.bias.view(per_channel)).to(dtype)


def _scaled(u: Tensor, copies: Copies) -> Tensor:
    """``U`` with the norm's scale, in at least float32."""
    wide = u.to(torch.promote_types(u.dtype, torch.float32))
    return wide if copies.scale is None else wide * copies.scale[:, None]


def _formed(copies: Copies, scaled: Tensor, v: Tensor, raw: Tensor) -> Tensor:
    """``W + U V``, in at least float32 and rounded once."""
    matrix = scaled.new_empty(raw.shape[0], v.shape[1])
    torch.addmm(copies.matrix, scaled, _rows_of(v.to(scaled.dtype), raw), out=matrix)  # out: autocast would round the factors
    return _shaped(matrix.to(copies.dtype), raw)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv | None, out: Tensor | None = None) -> Tensor:
    """With ``out``, rows of pixels are written into these pictures and returned as rows."""
    if conv is not None:
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    weight = weight.flatten(1)
    if out is None:
        return F.linear(x, weight, bias)
    rows, y = _pixels(x, None), out.permute(0, 2, 3, 1).flatten(0, 2)
    return torch.mm(rows, weight.t(), out=y) if bias is None else torch.addmm(bias, rows, weight.t(), out=y)


def _input_gradient(grad: Tensor, like: Tensor, weight: Tensor, conv: Conv | None) -> Tensor:
    return grad @ weight.flatten(1) if conv is None else _convolution_backward(grad, like, weight, conv, 0)


def _weight_gradient(grad: Tensor, x: Tensor, raw: Tensor, conv: Conv | None) -> Tensor:
    """``(out, columns)``, columns as in ``_rows_of``."""
    if conv is None:
        return _pixels(grad, None).t() @ _pixels(x, None)
    return _convolution_backward(grad, x, _shape_of(x, raw.shape), conv, 1).permute(0, 2, 3, 1).flatten(1)


def _filter_gradient(down: Tensor, grad: Tensor, x: Tensor, raw: Tensor, conv: Conv | None, rank: int) -> Tensor:
    """``(r, columns)``; ``down`` is ``∂y U``, or that shifted."""
    if conv is None:
        return _tall(down, _pixels(x, None))
    if down.shape[1] != rank:
        _, inputs, kh, kw = raw.shape
        by_shift = _tall(down, _pixels(x, conv)).view(kh, kw, rank, inputs)
        return by_shift.flip(0, 1).permute(2, 3, 0, 1).reshape(rank, -1)
    return _convolution_backward(_like_pixels(down, grad), x, _shape_of(x, (rank, *raw.shape[1:])), conv, 1).reshape(rank, -1)


def _add_input_gradient(grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor, raw: Tensor, conv: Conv | None) -> None:
    """Add what comes through ``V``, in place."""
    if conv is None:
        _add_product(grad_x, down, v, conv)
    elif down.shape[1] != len(v):
        by_shift = v.view(-1, *raw.shape[1:]).flip(2, 3).permute(2, 3, 0, 1).reshape(-1, raw.shape[1])
        _add_product(grad_x, down, by_shift, conv)
    else:
        grad_x += _input_gradient(_like_pixels(down, grad), grad_x, _filters(v, raw, conv), conv)


def _add_product(y: Tensor, rows: Tensor, matrix: Tensor, conv: Conv | None) -> None:
    """Add ``rows @ matrix`` to the pixels of ``y``, in place."""
    if conv is None or y.is_contiguous(memory_format=torch.channels_last):
        _pixels(y, conv).addmm_(rows, matrix)
    else:
        y += _like_pixels(rows @ matrix, y)


def _shifts(raw: Tensor, conv: Conv | None, down: Tensor) -> bool:
    """Whether the gradient of the filters is better had as a product with shifted copies than as a conv's.

    CPU libraries are slow at the gradient of few filters. The copies must be narrower than the input, and the stride one.
    """
    if conv is None or conv.stride != (1, 1) or conv.dilation != (1, 1) or not down.is_cpu:
        return False
    _, inputs, kh, kw = raw.shape
    return kh > conv.padding[0] and kw > conv.padding[1] and kh * kw * down.shape[1] <= 1.25 * inputs


def _shifted(down: Tensor, grad: Tensor, raw: Tensor, conv: Conv) -> Tensor:
    """``(P, r)`` of the output's pixels -> ``(P of the input, kh · kw · r)``: what each input pixel meets, last shift first."""
    (n, _, height, width), (kh, kw), rank = grad.shape, raw.shape[2:], down.shape[1]
    beyond_h, beyond_w = kh - 1 - conv.padding[0], kw - 1 - conv.padding[1]
    padded = F.pad(down.view(n, height, width, rank), (0, 0, beyond_w, beyond_w, beyond_h, beyond_h))
    steps = padded.stride()
    shape = (n, height + 2 * beyond_h - kh + 1, width + 2 * beyond_w - kw + 1, kh, kw * rank)
    return padded.as_strided(shape, (steps[0], steps[1], steps[2], steps[1], 1)).reshape(-1, kh * kw * rank)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, conv: Conv, which: int) -> Tensor:
    mask = [which == 0, which == 1, False]
    grads = torch.ops.aten.convolution_backward(
        grad, x, weight, None, conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups, mask
    )
    return grads[which]  # type: ignore[no-any-return]


def _tall(narrow: Tensor, wide: Tensor) -> Tensor:
    """``narrowᵀ wide`` of ``(P, r)`` and ``(P, n)``. Of very many rows as a sum over parts, which libraries do faster."""
    rows = len(wide)
    parts = min(math.gcd(rows, 8), rows // 1024)
    if parts < 2 or rows % parts:
        return narrow.t() @ wide
    products = torch.bmm(narrow.view(parts, rows // parts, -1).transpose(1, 2), wide.view(parts, rows // parts, -1))
    return products.sum(0, dtype=adapter_dtype(wide))


def _pictures(rows: Tensor, raw: Tensor) -> Tensor:
    """Room for ``(N, out, H, W)``, channels_last; not a view, so that what comes next may write in place."""
    n, height, width, _ = rows.shape
    return torch.empty((n, len(raw), height, width), dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)


def _shape_of(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that takes no memory, where only the shape of a channels_last one is asked for."""
    n, channels, height, width = shape
    return t.new_empty(1).expand(n, height, width, channels).permute(0, 3, 1, 2)


def _is_pointwise(layer: Layer) -> bool:
    return layer.conv == Conv() and layer.raw.shape[2:] == (1, 1)


def _positions(x: Tensor, raw: Tensor, conv: Conv | None) -> int:
    if conv is None:
        return x.numel() // x.shape[-1]
    (height, width), (kh, kw), stride, padding, dilation = x.shape[2:], raw.shape[2:], conv.stride, conv.padding, conv.dilation
    tall = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    return len(x) * tall * ((width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1)


def _pixels(t: Tensor, conv: Conv | None) -> Tensor:
    """Rows of channels: a view of tokens, and of channels_last pictures."""
    return t.flatten(0, -2) if conv is None else t.permute(0, 2, 3, 1).flatten(0, 2)


def _like_pixels(rows: Tensor, picture: Tensor) -> Tensor:
    """``_pixels`` of a conv undone, with the shape of ``picture`` but for the channels."""
    n, _, height, width = picture.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def _rows_of(v: Tensor, raw: Tensor) -> Tensor:
    """Columns in the order of channels_last weights, ``kh · kw · in``."""
    return v if raw.ndim == 2 or v.shape[1] == raw.shape[1] else v.view(-1, *raw.shape[1:]).permute(0, 2, 3, 1).flatten(1)


def _columns_of(rows: Tensor, raw: Tensor) -> Tensor:
    """``_rows_of`` undone."""
    if raw.ndim == 2 or rows.shape[1] == raw.shape[1]:
        return rows
    _, inputs, height, width = raw.shape
    return rows.view(-1, height, width, inputs).permute(0, 3, 1, 2).flatten(1)


def _filters(v: Tensor, raw: Tensor, conv: Conv | None) -> Tensor:
    return v if conv is None else v.view(-1, *raw.shape[1:]).contiguous(memory_format=torch.channels_last)


def _shaped(matrix: Tensor, raw: Tensor) -> Tensor:
    """A matrix with columns as in ``_rows_of`` in the shape of ``raw``."""
    if raw.ndim == 2:
        return matrix
    out, inputs, height, width = raw.shape
    return matrix.view(out, height, width, inputs).permute(0, 3, 1, 2)

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

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from visionlora.common.compat import owned, traced
from visionlora.lora.cheap import Recipe, recipe_of
from visionlora.lora.compute import Compute, Copies, compute_dtype
from visionlora.lora.frozen import FrozenWeight, is_quantized
from visionlora.lora.products import (
    Conv,
    add_input_gradient,
    add_product,
    columns_of,
    filter_gradient,
    filters,
    input_gradient,
    pictures,
    pixels,
    positions,
    product,
    rows_of,
    shape_of,
    shaped,
    shifted,
    shifts,
    subsampled,
    tall,
    weight_gradient,
)


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
    x, conv = subsampled(x, conv, raw)
    dtype = compute_dtype(x, raw)
    copies = compute.at(raw, bias, dtype)
    x = x.to(dtype)
    if raw.requires_grad:
        return product(x, _learning(layer, copies), copies.bias, conv)
    holds = conv is not None or is_quantized(raw)  # what torch's own would: a conv its input, this one its dense weight
    if not holds or not x.requires_grad or (bias is not None and bias.requires_grad) or traced():
        return product(x, copies.weight, copies.bias, conv)
    y: Tensor = _Frozen.apply(x, copies, conv)
    return y


def _learning(layer: Layer, copies: Copies) -> Tensor:
    """The weight itself, where it was unfrozen after all."""
    raw, scale = layer.raw, copies.scale
    return (raw if scale is None else raw * scale.view(-1, *[1] * (raw.ndim - 1))).to(copies.dtype)


def adapted(x: Tensor, layer: Layer, u: Tensor, v: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """``x (..., in)`` -> ``(..., out)``, or ``(N, in, H, W)`` -> ``(N, out, H', W')``, with ``u (out, r)``, ``v (r, columns)``."""
    given, recipe = x, recipe_of(x) if layer.compute.light else None
    x, conv = subsampled(given, layer.conv, layer.raw)
    if x is not given:  # what is held is the input, which others hold too
        recipe = _picked_of(recipe, given, layer)
        layer = layer._replace(conv=conv)
    bias_learns = layer.bias is not None and layer.bias.requires_grad
    dtype = compute_dtype(x, layer.raw)
    copies = layer.compute.at(layer.raw, layer.bias, dtype)
    if row_scale is not None or bias_learns or layer.raw.requires_grad or traced():
        with torch.autocast(x.device.type, enabled=False):
            return _differentiable(x.to(dtype), layer, copies, u, v, row_scale)
    y: Tensor = _Adapted.apply(x, u, v, layer, copies, torch.is_grad_enabled(), recipe)
    return y


def _picked_of(recipe: Recipe | None, given: Tensor, layer: Layer) -> Recipe:
    """How to make the subsampled input again, from the input or from what that is made of."""

    def pick(source: Tensor) -> Tensor:
        return subsampled(source if recipe is None else recipe.maker(source), layer.conv, layer.raw)[0]

    return Recipe(pick, given.detach() if recipe is None else recipe.source)


class _Frozen(torch.autograd.Function):
    """A layer whose weight is frozen: it holds nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, copies: Copies, conv: Conv | None) -> Tensor:
        ctx.copies, ctx.conv, ctx.shape = copies, conv, x.shape
        return owned(product(x, copies.weight, copies.bias, conv))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.to(ctx.copies.dtype)
        if ctx.conv is None:
            return input_gradient(grad, grad, ctx.copies.weight, None), None, None
        grad = grad.contiguous(memory_format=torch.channels_last)
        return input_gradient(grad, shape_of(grad, ctx.shape), ctx.copies.weight, ctx.conv), None, None


class _Adapted(torch.autograd.Function):
    """Holds the input in the compute dtype, and what is of low rank or smaller than the layer's activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, v: Tensor, layer: Layer, copies: Copies, keep: bool, recipe: Recipe | None) -> Tensor:
        raw, conv, dtype = layer.raw, layer.conv, copies.dtype
        given, x = x, x.to(dtype)
        shape, rank = x.shape, u.shape[1]
        flat = conv is not None and _is_pointwise(layer) and x.is_contiguous(memory_format=torch.channels_last)
        if flat:  # a linear layer of its pixels
            x, conv = x.permute(0, 2, 3, 1), None
        formed, whole = plan(layer, rank, positions(x, raw, conv))
        if whole and not ctx.needs_input_grad[2] and not (conv and conv.groups > 1):
            whole = False  # with A frozen the input need not be held
        scaled = _scaled(u, copies)
        weight = low = None
        if formed:
            weight = _formed(copies, scaled, v, raw)
        y = pictures(x, raw) if flat else None
        made = product(x, copies.weight if weight is None else weight, copies.bias, conv, y)
        if not formed or (keep and not whole):
            low = product(x, filters(v, raw, conv).to(dtype), None, conv)
        if low is not None and not formed:
            add_product(made, pixels(low, conv), scaled.to(dtype).t(), conv)
        if keep:
            # Where nothing upstream learns, the input is most often the batch, which its maker holds anyway.
            source = recipe.source if recipe is not None else x if ctx.needs_input_grad[0] else given
            held = source if whole or ctx.needs_input_grad[2] else None
            ctx.save_for_backward(held, u, v, None if whole else low, None if layer.compute.light else weight)
            ctx.maker = None if recipe is None else recipe.maker
            ctx.raw, ctx.copies, ctx.conv, ctx.plan, ctx.shape, ctx.flat = raw, copies, conv, Plan(formed, whole), shape, flat
        return owned(made) if y is None else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, u, v, low, weight = ctx.saved_tensors
        raw, copies, conv, (formed, whole) = ctx.raw, ctx.copies, ctx.conv, ctx.plan
        needs_x, needs_u, needs_v = ctx.needs_input_grad[:3]
        if x is not None and (ctx.maker is not None or not needs_x):
            x = (x if ctx.maker is None else ctx.maker(x)).to(copies.dtype)
            if ctx.flat:
                x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        dtype, scale = copies.dtype, copies.scale
        grad = grad.to(dtype)
        if ctx.flat:
            grad = grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        elif conv is not None:
            grad = grad.contiguous(memory_format=torch.channels_last)
        rows = pixels(grad, conv)
        scaled = _scaled(u, copies)
        grad_x = grad_u = grad_v = down = None
        if (needs_v and not whole) or (needs_x and not formed):
            down = rows @ scaled.to(dtype)  # (P, out) @ (out, r)
            if shifts(raw, conv, down):
                down = shifted(down, grad, raw, cast(Conv, conv))
        if whole:
            grad_w = weight_gradient(grad, x, raw, conv).to(scaled.dtype)  # (out, columns)
            grad_u = grad_w @ rows_of(v.to(scaled.dtype), raw).t() if needs_u else None
            grad_v = columns_of(scaled.t() @ grad_w, raw) if needs_v else None
        else:
            grad_u = tall(pixels(low, conv), rows).to(scaled.dtype).t() if needs_u else None
            if needs_v and down is not None:
                grad_v = filter_gradient(down, grad, x, raw, conv, u.shape[1])
        if needs_x:
            like = shape_of(grad, ctx.shape) if x is None and conv is not None else x
            if formed and weight is None:
                weight = _formed(copies, scaled, v, raw)
            grad_x = input_gradient(grad, like, copies.weight if weight is None else weight, conv)
            if not formed and down is not None:
                add_input_gradient(grad_x, down, grad, v.to(dtype), raw, conv)
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
        return product(x, (weight if scale is None else weight * scale[:, None, None, None]).to(dtype), copies.bias, conv)
    frozen_weight = _learning(layer, copies) if raw.requires_grad else copies.weight
    u = _scaled(u, copies).to(dtype)
    low = product(x, v.view(-1, *raw.shape[1:]).to(dtype), None, conv)
    low = F.linear(low, u) if conv is None else F.conv2d(low, u[:, :, None, None])
    if row_scale is None:
        return product(x, frozen_weight, copies.bias, conv) + low
    y = product(x, frozen_weight, None, conv) + low
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
    torch.addmm(copies.matrix, scaled, rows_of(v.to(scaled.dtype), raw), out=matrix)  # out: autocast would round the factors
    return shaped(matrix.to(copies.dtype), raw)


def _is_pointwise(layer: Layer) -> bool:
    return layer.conv == Conv() and layer.raw.shape[2:] == (1, 1)

"""What a layer calls: its output with or without adapters."""

from __future__ import annotations

import torch
from torch import Tensor

from visionlora.common.compat import traced
from visionlora.lora.frozen import FrozenWeight, is_quantized
from visionlora.lora.kernels.autograd import AdaptedFunction, FrozenFunction
from visionlora.lora.kernels.copies import Copies, compute_dtype
from visionlora.lora.kernels.geometry import Layer
from visionlora.lora.kernels.recompute import Recipe, recipe_of
from visionlora.lora.kernels.ways import scaled_up


def frozen(x: Tensor, layer: Layer) -> Tensor:
    """The output of a layer without adapters; its input is not held for the backward pass where its weight is frozen.

    Args:
        x: ``(..., in)`` or ``(N, in, H, W)``.
        layer: what computes it.

    Returns:
        ``(..., out)`` or ``(N, out, H', W')``, in autocast's dtype where autocast is on.
    """
    x, geometry = layer.geometry.sampled(x)
    dtype = compute_dtype(x, layer.raw)
    copies = layer.compute.at(layer.raw, layer.bias, dtype)
    x = x.to(dtype)
    if layer.raw.requires_grad:
        return geometry.product(x, _learning(layer, copies), copies.bias)
    bias_learns = layer.bias is not None and layer.bias.requires_grad
    torch_holds = geometry.torch_holds_input or is_quantized(layer.raw)  # of a quantised weight it holds the dense one
    if not torch_holds or not x.requires_grad or bias_learns or traced():
        return geometry.product(x, copies.weight, copies.bias)
    y: Tensor = FrozenFunction.apply(x, copies, geometry)
    return y


def adapted(x: Tensor, layer: Layer, u: Tensor, v: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """The output of a layer whose weight is ``row_scale ⊙ (W + U V)``.

    Where a method scales rows (DoRA), where the weight or the bias is trained, and while the code is traced (``torch.compile``,
    ``torch.func``), plain differentiable operations take the place of the autograd function.

    Args:
        x: ``(..., in)`` or ``(N, in, H, W)``.
        layer: the frozen layer.
        u: ``(out, r)``.
        v: ``(r, columns)``.
        row_scale: ``(out,)``.

    Returns:
        ``(..., out)`` or ``(N, out, H', W')``, in autocast's dtype where autocast is on.
    """
    given, recipe = x, recipe_of(x) if layer.compute.recompute else None
    x, geometry = layer.geometry.sampled(given)
    if x is not given:  # what is held is the input, which others hold too
        recipe = _picked_of(recipe, given, layer)
        layer = layer._replace(geometry=geometry)
    bias_learns = layer.bias is not None and layer.bias.requires_grad
    dtype = compute_dtype(x, layer.raw)
    copies = layer.compute.at(layer.raw, layer.bias, dtype)
    if row_scale is not None or bias_learns or layer.raw.requires_grad or traced():
        with torch.autocast(x.device.type, enabled=False):
            return _differentiable(x.to(dtype), layer, copies, u, v, row_scale)
    y: Tensor = AdaptedFunction.apply(x, u, v, layer, copies, torch.is_grad_enabled(), recipe)
    return y


def _learning(layer: Layer, copies: Copies) -> Tensor:
    """The weight itself, where it was unfrozen after all."""
    raw, scale = layer.raw, copies.scale
    return (raw if scale is None else raw * _by_output(scale, raw)).to(copies.dtype)


def _by_output(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(-1, *[1] * (weight.ndim - 1))


def _picked_of(recipe: Recipe | None, given: Tensor, layer: Layer) -> Recipe:
    """How to make the sampled input again, from the input or from what that is made of."""

    def pick(source: Tensor) -> Tensor:
        return layer.geometry.sampled(source if recipe is None else recipe.maker(source))[0]

    return Recipe(pick, given.detach() if recipe is None else recipe.source)


def _differentiable(x: Tensor, layer: Layer, copies: Copies, u: Tensor, v: Tensor, row_scale: Tensor | None) -> Tensor:
    """The same as the autograd function in plain operations, row scales included."""
    raw, geometry, dtype, scale = layer.raw, layer.geometry, copies.dtype, copies.scale
    if geometry.one_way:
        weight = FrozenWeight(raw).plus(u, v, row_scale)
        return geometry.product(x, (weight if scale is None else weight * _by_output(scale, weight)).to(dtype), copies.bias)
    frozen_weight = _learning(layer, copies) if raw.requires_grad else copies.weight
    u = scaled_up(u, copies).to(dtype)
    low = geometry.up(geometry.product(x, v.view(-1, *raw.shape[1:]).to(dtype), None), u)
    if row_scale is None:
        return geometry.product(x, frozen_weight, copies.bias) + low
    y = geometry.product(x, frozen_weight, None) + low
    # In the scale's float32: rounded to bf16, a small change of a magnitude would vanish.
    y = y * geometry.by_channel(row_scale)
    return (y if copies.bias is None else y + geometry.by_channel(copies.bias)).to(dtype)

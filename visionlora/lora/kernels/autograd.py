"""The functions that autograd calls: they hold as little as their gradients need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from visionlora.common.compat import owned
from visionlora.lora.kernels import cost
from visionlora.lora.kernels.copies import Copies
from visionlora.lora.kernels.geometry import Geometry, Layer
from visionlora.lora.kernels.recompute import Recipe
from visionlora.lora.kernels.ways import BY_FACTORS, BackwardPass, ForwardPass, Update


class FrozenFunction(torch.autograd.Function):
    """A layer whose weight is frozen; it holds nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, copies: Copies, geometry: Geometry) -> Tensor:
        ctx.copies, ctx.geometry, ctx.shape = copies, geometry, x.shape
        return owned(geometry.product(x, copies.weight, copies.bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = ctx.geometry.laid_out(grad.to(ctx.copies.dtype))
        return ctx.geometry.input_gradient(grad, ctx.copies.weight, ctx.shape), None, None


class AdaptedFunction(torch.autograd.Function):
    """A layer with an update ``U V``; it holds the input, and what is of low rank or smaller than the layer's activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, v: Tensor, layer: Layer, copies: Copies, keep: bool, recipe: Recipe | None) -> Tensor:
        """The output.

        Args:
            ctx: what is held for ``backward``.
            x: the input in any dtype.
            u: ``(out, r)``.
            v: ``(r, columns)``.
            layer: the frozen layer.
            copies: its weights in the compute dtype.
            keep: whether a backward pass may follow.
            recipe: how to make the input again, where it is not to be held.
        """
        given, x = x, x.to(copies.dtype)
        geometry, learns_v = layer.geometry.for_input(x, u.shape[1]), ctx.needs_input_grad[2]
        plan = cost.plan(layer, u.shape[1], geometry.positions(x))
        if not learns_v and not geometry.one_way:
            plan = plan._replace(backward=BY_FACTORS)  # with V frozen, the input need not be held
        forward = ForwardPass(Update(geometry, copies, u, v), x)
        y, weight = plan.forward.output(forward)
        if keep:
            low = forward.low if plan.backward.holds_low else None
            # Where nothing before this layer learns, the input is most often the batch, which its maker holds anyway.
            source = recipe.source if recipe is not None else x if ctx.needs_input_grad[0] else given
            held = source if plan.backward.holds_input or learns_v else None
            ctx.save_for_backward(held, u, v, low, None if layer.compute.recompute else weight)
            ctx.maker = None if recipe is None else recipe.maker
            ctx.copies, ctx.geometry, ctx.plan, ctx.shape = copies, geometry, plan, x.shape
        return owned(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, u, v, low, weight = ctx.saved_tensors
        copies, geometry = ctx.copies, ctx.geometry
        needs_x, needs_u, needs_v = ctx.needs_input_grad[:3]
        if x is not None:
            x = (x if ctx.maker is None else ctx.maker(x)).to(copies.dtype)
        grad = geometry.laid_out(grad.to(copies.dtype))
        backward = BackwardPass(Update(geometry, copies, u, v), grad, ctx.shape, x, low, weight)
        grad_u, grad_v = ctx.plan.backward.factor_gradients(backward, needs_u, needs_v)
        grad_x = ctx.plan.forward.input_gradient(backward) if needs_x else None
        if grad_u is not None:
            grad_u = (grad_u if copies.scale is None else grad_u * copies.scale[:, None]).to(u.dtype)
        return grad_x, grad_u, None if grad_v is None else grad_v.to(v.dtype), None, None, None, None

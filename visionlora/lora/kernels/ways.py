"""Two ways forward and two ways back, all with the same result up to rounding (cf. RunLoRA, Cherniuk et al. 2023, arXiv 2312.03415, §3).

Forward, the update is *formed* into the weight, or its product is added *beside* the frozen weight's. Back, the gradients of the
factors come *by factors*, from narrow products, or from the *whole* gradient of the weight. ``cost.py`` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from visionlora.lora.kernels.copies import Copies
from visionlora.lora.kernels.geometry import Geometry
from visionlora.lora.kernels.layouts import as_weight, from_channels_last_columns, tall_product, to_channels_last_columns


def scaled_up(u: Tensor, copies: Copies) -> Tensor:
    """``U`` times the scale of a norm that is folded into the layer, in at least float32."""
    wide = u.to(torch.promote_types(u.dtype, torch.float32))
    return wide if copies.scale is None else wide * copies.scale[:, None]


class Update:
    """The update ``U V`` of a frozen layer.

    Args:
        geometry: of the layer.
        copies: what the layer computes with.
        u: ``(out, r)``.
        v: ``(r, columns)``.
    """

    def __init__(self, geometry: Geometry, copies: Copies, u: Tensor, v: Tensor) -> None:
        self.geometry, self.copies, self.v = geometry, copies, v
        self.scaled = scaled_up(u, copies)

    def formed(self) -> Tensor:
        """``W + U V`` in the shape of ``W``: summed in at least float32 and rounded to the compute dtype once."""
        shape, wide = self.geometry.shape, self.scaled.dtype
        matrix = self.scaled.new_empty(shape[0], self.v.shape[1])
        # With ``out``, because autocast would round the factors otherwise.
        torch.addmm(self.copies.matrix, self.scaled, to_channels_last_columns(self.v.to(wide), shape), out=matrix)
        return as_weight(matrix.to(self.copies.dtype), shape)


class ForwardPass:
    """A forward pass of an adapted layer: its input ``x`` in the compute dtype, and what several products share."""

    def __init__(self, update: Update, x: Tensor) -> None:
        self.update, self.x = update, x

    @cached_property
    def low(self) -> Tensor:
        """``x Vᵀ``, ``(P, r)``."""
        return self.update.geometry.low(self.x, self.update.v)


class BackwardPass:
    """A backward pass of an adapted layer, and what several gradients share.

    Args:
        update: of the layer.
        grad: of the output, in the compute dtype and laid out as the geometry wants it.
        shape: of the input.
        x: the input in the compute dtype, where a gradient needs it.
        low: ``x Vᵀ``, where it is held.
        weight: ``W + U V``, where it is held.
    """

    def __init__(
        self, update: Update, grad: Tensor, shape: tuple[int, ...], x: Tensor | None, low: Tensor | None, weight: Tensor | None
    ) -> None:
        self.update, self.geometry, self.grad, self.shape = update, update.geometry, grad, shape
        self.x, self.low, self.weight = x, low, weight

    @cached_property
    def rows(self) -> Tensor:
        """``grad`` as ``(P, out)``."""
        return self.geometry.rows(self.grad)

    @cached_property
    def down(self) -> Tensor:
        """``∂y U`` as the geometry takes it."""
        return self.geometry.down(self.rows, self.update.scaled.to(self.grad.dtype), self.grad)

    def through(self, weight: Tensor) -> Tensor:
        """The gradient of the input through ``weight``."""
        return self.geometry.input_gradient(self.grad, weight, self.shape, self.x)


class Forward(ABC):
    """A way forward, and the way that the input's gradient goes back."""

    @abstractmethod
    def output(self, forward: ForwardPass) -> tuple[Tensor, Tensor | None]:
        """The output, and ``W + U V`` where it was made."""

    @abstractmethod
    def input_gradient(self, backward: BackwardPass) -> Tensor:
        """``∂x``, in the shape of the input."""


class Formed(Forward):
    """``x (W + U V)ᵀ``: it costs passes over the weight."""

    def output(self, forward: ForwardPass) -> tuple[Tensor, Tensor | None]:
        weight = forward.update.formed()
        return forward.update.geometry.product(forward.x, weight, forward.update.copies.bias), weight

    def input_gradient(self, backward: BackwardPass) -> Tensor:
        return backward.through(backward.update.formed() if backward.weight is None else backward.weight)


class Beside(Forward):
    """``x Wᵀ + (x Vᵀ) Uᵀ``: it costs passes over the output, and over the input's gradient."""

    def output(self, forward: ForwardPass) -> tuple[Tensor, Tensor | None]:
        update = forward.update
        y = update.geometry.product(forward.x, update.copies.weight, update.copies.bias)
        update.geometry.add(y, forward.low, update.scaled.to(forward.x.dtype).t())
        return y, None

    def input_gradient(self, backward: BackwardPass) -> Tensor:
        grad_x = backward.through(backward.update.copies.weight)
        backward.geometry.add_input_gradient(grad_x, backward.down, backward.grad, backward.update.v.to(backward.grad.dtype))
        return grad_x


class Backward(ABC):
    """A way to the gradients of the factors."""

    holds_input: ClassVar[bool]
    """The input is held even where only ``U`` is trained."""
    holds_low: ClassVar[bool]
    """``x Vᵀ`` is held."""

    @abstractmethod
    def factor_gradients(self, backward: BackwardPass, of_u: bool, of_v: bool) -> tuple[Tensor | None, Tensor | None]:
        """``∂U (out, r)``, of ``U`` with its scale, and ``∂V (r, columns)``; ``None`` for one that is not asked for."""


class ByFactors(Backward):
    """``∂U = ∂yᵀ (x Vᵀ)`` and ``∂V = (∂y U)ᵀ x``: each is a pass over the activations, however small the rank."""

    holds_input, holds_low = False, True

    def factor_gradients(self, backward: BackwardPass, of_u: bool, of_v: bool) -> tuple[Tensor | None, Tensor | None]:
        grad_u = grad_v = None
        if of_u:
            assert backward.low is not None
            grad_u = tall_product(backward.low, backward.rows).to(backward.update.scaled.dtype).t()
        if of_v:
            assert backward.x is not None
            grad_v = backward.geometry.filter_gradient(backward.down, backward.grad, backward.x)
        return grad_u, grad_v


class Whole(Backward):
    """``∂W = ∂yᵀ x`` first, then ``∂U = ∂W Vᵀ`` and ``∂V = Uᵀ ∂W``: one pass, whose cost grows with the narrower side of the layer."""

    holds_input, holds_low = True, False

    def factor_gradients(self, backward: BackwardPass, of_u: bool, of_v: bool) -> tuple[Tensor | None, Tensor | None]:
        assert backward.x is not None
        scaled, v, shape = backward.update.scaled, backward.update.v, backward.geometry.shape
        grad_w = backward.geometry.weight_gradient(backward.grad, backward.x).to(scaled.dtype)  # (out, columns)
        grad_u = grad_w @ to_channels_last_columns(v.to(scaled.dtype), shape).t() if of_u else None
        grad_v = from_channels_last_columns(scaled.t() @ grad_w, shape) if of_v else None
        return grad_u, grad_v


FORMED, BESIDE = Formed(), Beside()
BY_FACTORS, WHOLE = ByFactors(), Whole()

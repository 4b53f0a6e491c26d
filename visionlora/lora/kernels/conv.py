"""A 2-D conv without groups, and the one whose narrow gradients are faster as a product with shifted copies."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionlora.common.compat import convolution_gradients
from visionlora.lora.kernels.geometry import Geometry
from visionlora.lora.kernels.layouts import as_pictures, pixel_rows, shifted_copies, stand_in, tall_product
from visionlora.lora.kernels.pointwise import Pointwise

WIDEST_COPIES = 1.25
"""Shifted copies are taken while they have at most so many times the channels of the input.

The gradients by copies read ``kh · kw · r`` channels for each pixel, those by torch's conv read the input's. The number was set by
hand; ``benchmarks/cost_rule.py --numbers`` times a step with half of it and with twice as much.
"""


class Conv(Geometry):
    """``(N, in, H, W)`` -> ``(N, out, H', W')`` with a weight ``(out, in, kh, kw)``, padded with zeros.

    Args:
        shape: of the weight.
        stride: vertical and horizontal, as the next ones.
        padding: on each side.
        dilation: distance of the kernel's taps.
        groups: see ``Grouped``.
    """

    torch_holds_input = True

    def __init__(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__(shape)
        self.stride, self.padding, self.dilation, self.groups = tuple(stride), tuple(padding), tuple(dilation), groups

    def fits(self, x: Tensor) -> bool:
        return x.ndim == 4

    def sampled(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """See ``Geometry.sampled``: a pointwise conv with a stride becomes one without, of the pixels that it reads.

        That is less work. It is also safe: torch's CPU kernel for the weight's gradient of a strided pointwise conv writes beyond its
        memory where the input has few channels.
        """
        if self.stride == (1, 1) or self.shape[2:] != (1, 1) or any(self.padding):
            return x, self
        picked = x[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=torch.channels_last)
        return picked, type(self)(self.shape, (1, 1), self.padding, self.dilation, self.groups)

    def for_input(self, x: Tensor, rank: int) -> Geometry:
        still = self.stride == (1, 1) and self.dilation == (1, 1)
        if self.shape[2:] == (1, 1):
            fast = still and self.padding == (0, 0) and x.is_contiguous(memory_format=torch.channels_last)
            return Pointwise(self.shape) if fast else self
        return ShiftedConv(self.shape, padding=self.padding) if still and x.is_cpu and self._copies_are_narrow(rank) else self

    def _copies_are_narrow(self, rank: int) -> bool:
        _, inputs, kh, kw = self.shape
        return kh > self.padding[0] and kw > self.padding[1] and kh * kw * rank <= WIDEST_COPIES * inputs

    def positions(self, x: Tensor) -> int:
        height, width = (
            (x.shape[axis + 2] + 2 * self.padding[axis] - self.dilation[axis] * (self.shape[axis + 2] - 1) - 1) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return len(x) * height * width

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def rows(self, y: Tensor) -> Tensor:
        return pixel_rows(y)

    def low(self, x: Tensor, v: Tensor) -> Tensor:
        return pixel_rows(self.product(x, self._filters(v).to(x.dtype), None))

    def up(self, low: Tensor, u: Tensor) -> Tensor:
        return F.conv2d(low, u[:, :, None, None])

    def by_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    def add(self, y: Tensor, rows: Tensor, matrix: Tensor) -> None:
        if y.is_contiguous(memory_format=torch.channels_last):
            pixel_rows(y).addmm_(rows, matrix)
        else:
            y += as_pictures(rows @ matrix, y)

    def laid_out(self, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        return self._backward(grad, x, stand_in(x, self.shape), 1).permute(0, 2, 3, 1).flatten(1)

    def filter_gradient(self, down: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        filters = stand_in(x, (down.shape[1], *self.shape[1:]))
        return self._backward(as_pictures(down, grad), x, filters, 1).reshape(down.shape[1], -1)

    def add_input_gradient(self, grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor) -> None:
        grad_x += self.input_gradient(as_pictures(down, grad), self._filters(v), tuple(grad_x.shape), grad_x)

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...], x: Tensor | None = None) -> Tensor:
        return self._backward(grad, stand_in(grad, shape) if x is None else x, weight, 0)

    def _filters(self, v: Tensor) -> Tensor:
        return v.view(-1, *self.shape[1:]).contiguous(memory_format=torch.channels_last)

    def _backward(self, grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        """The gradient of the input (``which = 0``) or of the weight (``which = 1``)."""
        wanted = (which == 0, which == 1)
        return convolution_gradients(grad, x, weight, self.stride, self.padding, self.dilation, self.groups, wanted)[which]


class ShiftedConv(Conv):
    """A conv of stride and dilation one whose gradients through the factors are a product with shifted copies of ``∂y U``.

    CPU libraries are slow at the gradients of a conv of few filters; a product of matrices that does the same is faster while the
    copies, ``kh · kw · r`` channels for each pixel of the input, are not much wider than the input is.
    """

    def for_input(self, x: Tensor, rank: int) -> Geometry:
        return self

    def down(self, rows: Tensor, u: Tensor, grad: Tensor) -> Tensor:
        return shifted_copies(rows @ u, grad, self.shape[2:], self.padding)

    def filter_gradient(self, down: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        _, inputs, kh, kw = self.shape
        by_shift = tall_product(down, pixel_rows(x)).view(kh, kw, -1, inputs)
        return by_shift.flip(0, 1).permute(2, 3, 0, 1).flatten(1)

    def add_input_gradient(self, grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor) -> None:
        by_shift = v.view(-1, *self.shape[1:]).flip(2, 3).permute(2, 3, 0, 1).reshape(-1, self.shape[1])
        self.add(grad_x, down, by_shift)


def zero_padded(conv: nn.Conv2d) -> bool:
    """Whether ``conv`` is padded with a number of zeros, which the kernels can do."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def sampled_conv(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``nn.Conv2d._conv_forward``, differentiable in everything; a strided pointwise conv reads its pixels as ``Conv.sampled`` has it."""
    if zero_padded(conv):
        geometry = Conv(weight.shape, conv.stride, cast("tuple[int, ...]", conv.padding), conv.dilation, conv.groups)
        picked, smaller = geometry.sampled(x)
        if picked is not x:
            return smaller.product(picked, weight, bias)
    return nn.Conv2d._conv_forward(conv, x, weight, bias)  # type: ignore[no-any-return]

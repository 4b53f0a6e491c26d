"""Convs with groups, depthwise ones among them."""

from __future__ import annotations

from torch import Tensor

from visionlora.lora.kernels.conv import Conv
from visionlora.lora.kernels.geometry import Geometry
from visionlora.lora.kernels.layouts import stand_in


class Grouped(Conv):
    """A conv whose outputs each see the inputs of their own group, with a weight ``(out, in / groups, kh, kw)``.

    The product with ``V`` alone would mix the groups' inputs, so the update is always formed into the weight.
    The gradients of the factors are those of ``ways.Whole``, made of ``Conv.weight_gradient``.
    """

    one_way = True

    def for_input(self, x: Tensor, rank: int) -> Geometry:
        return self

    def _backward(self, grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        dtype = grad.dtype
        if grad.is_cpu and dtype.itemsize < 4 and (which == 1 or self.stride != (1, 1)):
            # CPU libraries have no fast bf16 kernels for these: float32 with its casts takes a fraction of the time.
            grad, weight = grad.float(), weight.float()
            x = x.float() if which == 1 else stand_in(grad, tuple(x.shape))
        return super()._backward(grad, x, weight, which).to(dtype)

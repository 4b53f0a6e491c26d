"""A conv of one pixel on channels_last images: a linear layer of their pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from visionlora.lora.kernels.layouts import pixel_rows
from visionlora.lora.kernels.linear import Linear


class Pointwise(Linear):
    """``(N, in, H, W)`` -> ``(N, out, H, W)``, both channels_last, with a weight ``(out, in, 1, 1)``, no stride and no padding."""

    torch_holds_input = True

    def fits(self, x: Tensor) -> bool:
        return x.ndim == 4

    def positions(self, x: Tensor) -> int:
        return x.numel() // x.shape[1]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The rows are written into images that are no view, so that the layer after this one may change them in place.
        (n, _, height, width), matrix = x.shape, weight.flatten(1)
        y = torch.empty((n, len(matrix), height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        if bias is None:
            torch.mm(self.rows(x), matrix.t(), out=self.rows(y))
        else:
            torch.addmm(bias, self.rows(x), matrix.t(), out=self.rows(y))
        return y

    def rows(self, y: Tensor) -> Tensor:
        return pixel_rows(y)

    def low(self, x: Tensor, v: Tensor) -> Tensor:
        return super().low(x.permute(0, 2, 3, 1), v)

    def up(self, low: Tensor, u: Tensor) -> Tensor:
        return F.conv2d(low, u[:, :, None, None])

    def by_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    def laid_out(self, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...], x: Tensor | None = None) -> Tensor:
        return (grad.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2)

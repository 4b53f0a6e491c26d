"""A linear layer of vectors or tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from visionlora.lora.kernels.geometry import Geometry
from visionlora.lora.kernels.layouts import tall_product


class Linear(Geometry):
    """``(..., in)`` -> ``(..., out)``, with at least one axis before the channels."""

    def fits(self, x: Tensor) -> bool:
        return x.ndim >= 2

    def positions(self, x: Tensor) -> int:
        return x.numel() // x.shape[-1]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def rows(self, y: Tensor) -> Tensor:
        return y.flatten(0, -2)

    def low(self, x: Tensor, v: Tensor) -> Tensor:
        return F.linear(x, v.to(x.dtype)).flatten(0, -2)

    def up(self, low: Tensor, u: Tensor) -> Tensor:
        return F.linear(low, u)

    def by_channel(self, values: Tensor) -> Tensor:
        return values

    def add(self, y: Tensor, rows: Tensor, matrix: Tensor) -> None:
        self.rows(y).addmm_(rows, matrix)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        return self.rows(grad).t() @ self.rows(x)

    def filter_gradient(self, down: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        return tall_product(down, self.rows(x))

    def add_input_gradient(self, grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor) -> None:
        self.add(grad_x, down, v)

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...], x: Tensor | None = None) -> Tensor:
        return grad @ weight

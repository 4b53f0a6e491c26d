"""What the kernels ask of a kind of layer, and the layer as they take it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from visionlora.lora.kernels.copies import Compute


class Geometry(ABC):
    """How a kind of layer multiplies its input by its weight, and what the gradients of that product are.

    In all methods ``x`` is the layer's input, ``y`` its output and ``grad`` the gradient of the output, in the layer's own shapes:
    ``(..., in)`` and ``(..., out)`` for tokens, ``(N, in, H, W)`` and ``(N, out, H', W')`` for images. *Rows* are a matrix ``(P, c)``
    with a row of channels for each of the ``P`` positions of the output. ``u (out, r)`` and ``v (r, columns)`` are the factors.

    Args:
        shape: of the weight, ``(out, in)`` or ``(out, in / groups, kh, kw)``.
    """

    one_way: ClassVar[bool] = False
    """The update must be formed into the weight, and the factors' gradients taken from the weight's: there is no other way."""
    torch_holds_input: ClassVar[bool] = False
    """torch's own function would hold the input for the backward pass, even though the weight is frozen."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    @abstractmethod
    def fits(self, x: Tensor) -> bool:
        """Whether ``x`` is a batch of what the layer takes."""

    def sampled(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """The pixels of ``x`` that the layer reads, and the geometry for these; ``x`` itself where it reads them all."""
        return x, self

    def for_input(self, x: Tensor, rank: int) -> Geometry:
        """The geometry that is fastest for an input of this layout and for factors of this rank; the results are the same."""
        return self

    @abstractmethod
    def positions(self, x: Tensor) -> int:
        """How many tokens or pixels the output has in all."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``y`` for a weight of any number of outputs, in the shape of the parameter."""

    @abstractmethod
    def rows(self, y: Tensor) -> Tensor:
        """An output, or its gradient, as rows; a view where it is ``laid_out``."""

    @abstractmethod
    def low(self, x: Tensor, v: Tensor) -> Tensor:
        """The product of ``x`` with ``v`` as rows ``(P, r)``, in the dtype of ``x``."""

    @abstractmethod
    def up(self, low: Tensor, u: Tensor) -> Tensor:
        """The output of the product with ``v``, in the layer's own shape, times ``u``; plain operations that autograd can follow."""

    @abstractmethod
    def by_channel(self, values: Tensor) -> Tensor:
        """``values (out,)`` in a shape that multiplies the output channel by channel."""

    @abstractmethod
    def add(self, y: Tensor, rows: Tensor, matrix: Tensor) -> None:
        """Add ``rows @ matrix``, of ``(P, r)`` and ``(r, out)``, to ``y`` in place."""

    def laid_out(self, grad: Tensor) -> Tensor:
        """``grad`` in the layout in which the methods below are fast."""
        return grad

    @abstractmethod
    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """``(out, columns)``, the columns in the order of channels_last weights (see ``layouts.py``)."""

    def down(self, rows: Tensor, u: Tensor, grad: Tensor) -> Tensor:
        """``∂y U`` from the rows of ``grad``, in the form that the next two methods take."""
        return rows @ u

    @abstractmethod
    def filter_gradient(self, down: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        """The gradient of ``v``, ``(r, columns)``, from ``down``."""

    @abstractmethod
    def add_input_gradient(self, grad_x: Tensor, down: Tensor, grad: Tensor, v: Tensor) -> None:
        """Add what comes through ``v`` to the gradient of the input, in place."""

    @abstractmethod
    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...], x: Tensor | None = None) -> Tensor:
        """The gradient of the input through ``weight``.

        Args:
            grad: of the output.
            weight: with which the output was computed.
            shape: of the input.
            x: the input, where it is held; its values do not matter, its layout may.
        """


class Layer(NamedTuple):
    """A frozen layer as the kernels take it.

    Args:
        raw: the weight as it was loaded.
        bias: as it was loaded.
        compute: the copies of both that are computed with.
        geometry: what kind of layer it is.
    """

    raw: Tensor
    bias: Tensor | None
    compute: Compute
    geometry: Geometry

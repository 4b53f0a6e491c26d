"""The frozen weight behind an adapted layer: the only place that knows dtypes and how a weight is a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def adapter_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of an adapter of ``weight``: float32, or float64 where the model is in float64."""
    return torch.promote_types(weight.dtype, torch.float32)


def is_quantized(weight: Tensor) -> bool:
    """Whether ``weight`` is one of torchao's tensors of integers with scales."""
    return hasattr(weight, "qdata")


def dense(weight: Tensor) -> Tensor:
    """The numbers that a quantised ``weight`` stands for; any other weight as it is."""
    return weight.dequantize() if is_quantized(weight) else weight


@dataclass(frozen=True)
class FrozenWeight:
    """A frozen parameter as the methods and kernels see it: a matrix of outputs by inputs.

    A weight ``(out, in/groups, *kernel)`` is the matrix ``(out, in/groups·prod(kernel))``.

    Args:
        original: the parameter as it was loaded.
        transposed: it is ``(in, out/groups, *kernel)``, as in ``nn.ConvTranspose2d``; the matrix is ``(out/groups, in·prod(kernel))``.
    """

    original: Tensor
    transposed: bool = False

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape of the weight as a matrix, ``(out, columns)``."""
        out = self.original.shape[1 if self.transposed else 0]
        return out, self.original.numel() // max(out, 1)

    def matrix(self) -> Tensor:
        """The weight as a matrix ``(out, columns)``, in at least float32."""
        w = dense(self.original)
        w = w.transpose(0, 1) if self.transposed else w
        return w.reshape(self.matrix_shape).to(adapter_dtype(self.original))

    def shaped(self, matrix: Tensor) -> Tensor:
        """A matrix ``(out, columns)`` in the shape of the parameter."""
        if not self.transposed:
            return matrix.view(self.original.shape)
        inputs, out, *kernel = self.original.shape
        return matrix.view(out, inputs, *kernel).transpose(0, 1)

    def plus(self, u: Tensor, v: Tensor, row_scale: Tensor | None = None) -> Tensor:
        """``row_scale ⊙ (W + U V)`` in the shape and dtype of ``W``: summed in at least float32 whatever autocast says, rounded once.

        Args:
            u: ``(out, r)``.
            v: ``(r, columns)``.
            row_scale: ``(out,)``; ``None`` scales nothing.
        """
        w = dense(self.original)
        with torch.autocast(w.device.type, enabled=False):
            wide = adapter_dtype(w)
            # (out, r) @ (r, columns) -> (out, columns) -> the parameter's shape
            effective = w.to(wide) + self.shaped(u.to(wide) @ v.to(wide))
            if row_scale is not None:
                effective = effective * self._along_outputs(row_scale.to(wide))
            return effective.to(w.dtype)

    def row_norms(self, u: Tensor, v: Tensor) -> Tensor:
        """The norm ``‖w + u V‖`` of each row of ``W + U V``, ``(out,)``, without forming ``U V``.

        ``‖w + uV‖² = ‖w‖² + 2 ⟨wVᵀ, u⟩ + ⟨u VVᵀ, u⟩``: a product with ``Vᵀ (columns, r)`` instead of one of the weight's size.
        """
        with torch.autocast(self.original.device.type, enabled=False):
            w = self.matrix()
            u, v = u.to(w.dtype), v.to(w.dtype)
            squares = torch.linalg.vector_norm(w, dim=1).square()
            squares = squares + ((2 * (w @ v.T) + u @ (v @ v.T)) * u).sum(1)  # (out, r) * (out, r) -> (out,)
            norms: Tensor = squares.clamp_min(torch.finfo(w.dtype).tiny).sqrt()
            return norms

    def _along_outputs(self, values: Tensor) -> Tensor:
        shape = [1] * self.original.ndim
        shape[1 if self.transposed else 0] = -1
        return values.view(shape)

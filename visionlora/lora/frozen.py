"""The frozen weight behind an adapted layer: the only place that knows dtypes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def adapter_dtype(weight: Tensor) -> torch.dtype:
    """Adapters are trained in float32, or in float64 where the model is."""
    return torch.promote_types(weight.dtype, torch.float32)


@dataclass(frozen=True)
class FrozenWeight:
    """A frozen parameter as the methods and kernels see it.

    Args:
        original: the parameter as it was loaded.
    """

    original: Tensor

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """``(out, in/groups·prod(kernel))``."""
        return self.original.shape[0], self.original[0].numel()

    def plus(self, u: Tensor, v: Tensor) -> Tensor:
        """``W + U V``: formed in at least float32 whatever autocast says, rounded to the dtype of ``W`` once."""
        w = self.original
        with torch.autocast(w.device.type, enabled=False):
            wide = adapter_dtype(w)
            update = (u.to(wide) @ v.to(wide)).view(w.shape)  # (out, r) @ (r, columns) -> (out, in/groups, *kernel)
            return (w.to(wide) + update).to(w.dtype)

"""Trained strided pointwise convs, kept away from a kernel that writes beyond its memory."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from visionlora.common.swap import Swapped, restore, swap
from visionlora.lora.kernels.conv import sampled_conv


class Subsampled(Swapped):
    """A mixin for a strided pointwise conv, which is computed as one without a stride of the pixels that it reads (see ``Conv.sampled``).

    Frozen and adapted layers do that in their own kernels; this is for a weight that is trained itself.
    """

    prefix = "Subsampled"

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return sampled_conv(cast(nn.Conv2d, self), x, weight, bias)


def subsample(module: nn.Module) -> None:
    """Make ``module`` a ``Subsampled`` one, where it is a strided pointwise conv of torch's own class."""
    if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
        swap(module, Subsampled)


def sample_fully(module: nn.Module) -> None:
    """Undo ``subsample``."""
    if isinstance(module, Subsampled):
        restore(module)

"""Trained strided pointwise convs, kept away from a kernel that writes beyond its memory."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from visionlora.lora.products import Conv, subsampled
from visionlora.swap import Swapped, restore, swap


class Subsampled(Swapped):
    """Mixin: a strided pointwise conv as the product with every so manieth pixel, see ``products.subsampled``.

    Frozen and adapted layers do that in their own kernels; this is for a weight that is trained itself.
    """

    prefix = "Subsampled"

    def forward(self, x: Tensor) -> Tensor:
        conv = cast(nn.Conv2d, self)
        x, _ = subsampled(x, Conv(conv.stride), conv.weight)
        return F.conv2d(x, conv.weight, conv.bias, groups=conv.groups)


def subsample(module: nn.Module) -> None:
    """Make ``module`` compute so, where it is a strided pointwise conv of torch's own class."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1) or module.stride == (1, 1) or module.padding_mode != "zeros":
        return
    if module.padding in ((0, 0), "valid"):
        swap(module, Subsampled)


def sample_fully(module: nn.Module) -> None:
    """Undo ``subsample``."""
    if isinstance(module, Subsampled):
        restore(module)

"""Layers whose ``forward`` is a kernel's, with adapters and without; ``kernel_table.py`` says which classes have one."""

from __future__ import annotations

from typing import TypeGuard, cast

from torch import Tensor, nn
from torch.nn import functional as F

from visionlora.common.swap import Swapped
from visionlora.lora.kernels import forward
from visionlora.lora.kernels.conv import Conv, sampled_conv, zero_padded
from visionlora.lora.kernels.copies import Compute, compute_dtype
from visionlora.lora.kernels.geometry import Layer
from visionlora.lora.kernels.grouped import Grouped
from visionlora.lora.kernels.linear import Linear
from visionlora.lora.layer import LoraLayer, is_distributed

COMPUTE = "_compute"
"""The key in the ``__dict__`` of a module under which its ``Compute`` is."""


class KernelLayer(Swapped):
    """A mixin of layers whose ``forward`` is a kernel's."""

    def compute(self) -> Compute:
        """The copies the layer computes with; they are no part of its state."""
        return cast(Compute, self.__dict__.setdefault(COMPUTE, Compute()))

    def layer(self) -> Layer | None:
        """The layer as the kernels take it; ``None`` where they cannot, and the layer's own class computes it."""
        raise NotImplementedError

    def prepare(self, x: Tensor) -> Tensor:
        """What the layer does to its input before the product."""
        return x

    def takes(self, layer: Layer | None, x: Tensor) -> TypeGuard[Layer]:
        """Whether the kernels compute the layer for this input."""
        return layer is not None and not layer.compute.bypassed and layer.geometry.fits(x) and not is_distributed(layer.raw)


class _Linear(KernelLayer):
    def layer(self) -> Layer | None:
        raw, bias = self._parameters["weight"], self._parameters["bias"]
        assert raw is not None
        return Layer(raw, bias, self.compute(), Linear(raw.shape))


class _Conv2d(KernelLayer):
    def layer(self) -> Layer | None:
        conv, raw, bias = cast(nn.Conv2d, self), self._parameters["weight"], self._parameters["bias"]
        assert raw is not None
        if not zero_padded(conv):
            return None
        kind = Conv if conv.groups == 1 else Grouped
        return Layer(
            raw, bias, self.compute(), kind(raw.shape, conv.stride, cast("tuple[int, ...]", conv.padding), conv.dilation, conv.groups)
        )

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The class's own forward comes here where no kernel is taken.
        return sampled_conv(cast(nn.Conv2d, self), x, weight, bias)


class _SamePadding(_Conv2d):
    def prepare(self, x: Tensor) -> Tensor:
        conv, raw = cast(nn.Conv2d, self), self._parameters["weight"]
        assert raw is not None
        x = x.to(compute_dtype(x, raw))  # first, so that what is held is no wider
        return pad_same(x, conv)


def pad_same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Pad images with zeros as TensorFlow does, so that the output has ``⌈size / stride⌉`` pixels a side.

    Args:
        x: ``(N, C, H, W)``.
        conv: gives kernel, stride and dilation; its own padding is not read.
    """
    padding: list[int] = []
    for size, kernel, stride, dilation in zip(x.shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1], conv.dilation[::-1], strict=True):
        missing = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        padding += [missing // 2, missing - missing // 2]
    return F.pad(x, padding)


class _Adapted(KernelLayer, LoraLayer):
    def forward(self, x: Tensor) -> Tensor:
        adapters, layer = self.adapter_sets["weight"], self.layer()
        if not self.takes(layer, x):
            return cast(Tensor, super().forward(x))
        if not adapters.active:
            return forward.frozen(self.prepare(x), layer)
        return forward.adapted(self.prepare(x), layer, *adapters.factors(layer.raw))


class AdaptedLinear(_Linear, _Adapted):
    """An ``nn.Linear`` with adapters."""


class AdaptedConv2d(_Conv2d, _Adapted):
    """An ``nn.Conv2d`` with adapters; where it is not padded with zeros, its own class computes it."""


class AdaptedConv2dSame(_SamePadding, _Adapted):
    """A ``Conv2dSame`` of timm with adapters; it is padded as TensorFlow does."""


class FrozenLayer(KernelLayer):
    """A mixin of frozen layers without adapters, computed in the compute dtype and with the norm after it folded in."""

    prefix = "Frozen"

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer()
        if not self.takes(layer, x):
            return cast(Tensor, super().forward(x))
        return forward.frozen(self.prepare(x), layer)


class FrozenLinear(_Linear, FrozenLayer):
    """A frozen ``nn.Linear``."""


class FrozenConv2d(_Conv2d, FrozenLayer):
    """A frozen ``nn.Conv2d``."""


class FrozenConv2dSame(_SamePadding, FrozenLayer):
    """A frozen ``Conv2dSame`` of timm."""

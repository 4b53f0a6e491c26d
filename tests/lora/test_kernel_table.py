"""The table of classes with kernels: complete without anything else being imported, and its names are those of the libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from timm.layers.padding import pad_same as timms
from torch import nn

from visionlora.lora.kernel_layers import AdaptedConv2dSame, pad_same
from visionlora.lora.kernel_table import KERNEL_LAYERS, kernel_layers


def test_every_name_is_that_of_a_class() -> None:
    known = {nn.Linear, nn.Conv2d, Conv2dSame}
    assert all(kernel_layers(cls) for cls in known)
    assert len(KERNEL_LAYERS) == len(known)


def test_a_subclass_has_no_kernels() -> None:
    assert kernel_layers(StdConv2d) is None
    assert kernel_layers(type("Linear", (nn.Linear,), {})) is None


def test_lora_alone_has_the_whole_table() -> None:
    """Nothing is registered when another part of the package is imported; and neither timm nor that part is imported here."""
    code = """if True:
        import sys
        from torch import nn
        from visionlora.lora import LoraConfig, inject
        Same = type("Conv2dSame", (nn.Conv2d,), {"__module__": "timm.layers.conv2d_same"})
        model = nn.Sequential(Same(8, 8, 3))
        inject(model, LoraConfig(r=1, targets="all"))
        print(type(model[0]).mixin().__name__, sorted({"timm", "visionlora.speed"} & set(sys.modules)))
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=1) == [AdaptedConv2dSame.__name__, "[]\n"], done.stderr


@pytest.mark.parametrize("size", [(7, 8), (16, 5), (1, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
@pytest.mark.parametrize("kernel", [1, 3, (5, 2)])
def test_padding_is_timms(kernel: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    conv = Conv2dSame(2, 2, kernel, stride=stride, dilation=dilation)
    x = torch.randn(1, 2, *size)
    assert torch.equal(pad_same(x, conv), timms(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation)))

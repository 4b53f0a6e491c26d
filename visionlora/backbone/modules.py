"""Exchanging layers of a built model: heads, first convs, small-image stems."""

from __future__ import annotations

from typing import Any

from torch import nn

from visionlora.common.errors import UserError


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where the module ``name`` was."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def with_channels(conv: nn.Conv2d, in_chans: int) -> nn.Conv2d:
    """A new conv like ``conv`` for ``in_chans`` input channels."""
    shape: Any = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias is not None)
    return type(conv)(in_chans, conv.out_channels, *shape)


def small_image_stem(model: nn.Module, full_name: str) -> tuple[str, ...]:
    """Let the stem keep the resolution, for images of about 32 px: stride 1, a 7×7 conv made anew as 3×3, no max-pool.

    (The CIFAR stem of He et al. 2015, arXiv 1512.03385, §4.2.)

    Returns:
        Names of the layers made anew.
    """
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.kernel_size[0] <= conv.stride[0]:
        raise UserError(
            f"model.stem=small: {full_name} cuts the image into patches, its stem cannot keep the resolution;"
            " raise data.image_size instead."
        )
    remade: tuple[str, ...] = ()
    if conv.kernel_size[0] > 3:
        new = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=conv.bias is not None)
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        replace_module(model, name, new)
        remade = (name,)
    else:
        conv.stride = (1, 1)
    if isinstance(getattr(model, "maxpool", None), nn.Module):
        model.maxpool = nn.Identity()
    return remade

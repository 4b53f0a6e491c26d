"""SSD (Liu et al. 2016, arXiv 1512.02325) and SSDLite (Sandler et al. 2018, arXiv 1801.04381) over the maps of a backbone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

from visionlora.backbone.placed.maps import exactly
from visionlora.backbone.placed.one_stage import Detector

UNITS = (0.1, 0.1, 0.2, 0.2)
"""Of the numbers of a box: of its middle and of the logarithm of its sides, beside those of the anchor."""
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
"""Sides of the anchors of each map beside the square ones: those of SSD300."""
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
"""Sizes of the anchors of each map, and of one map more, in shares of the image's side: those of SSD300."""
EXTRA = (512, 256, 256, 128)
"""Channels of the maps that are made beside the backbone's, as SSDLite has them."""


class Extras(nn.Module):
    """Maps at ever half the resolution after the backbone's, until there is one for each size of anchors.

    Args:
        channels: of the backbone's maps.
        lite: with depthwise convs, as SSDLite has them.
    """

    def __init__(self, channels: list[int], lite: bool) -> None:
        super().__init__()
        self.channels = [*channels]
        blocks = []
        for out in EXTRA[: max(len(RATIOS) - len(channels), 0)]:
            blocks.append(_extra_block(self.channels[-1], out, lite))
            self.channels.append(out)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found = [*maps]
        for block in self.blocks:
            found.append(exactly(block, found[-1]))
        return found


def _extra_block(channels: int, out: int, lite: bool) -> nn.Module:
    inner = out // 2
    groups = inner if lite else 1
    more: dict[str, Any] = {"norm_layer": group_norm, "activation_layer": nn.ReLU6}
    return nn.Sequential(
        Conv2dNormActivation(channels, inner, 1, **more),
        Conv2dNormActivation(inner, inner if lite else out, 3, stride=2, groups=groups, **more),
        *([Conv2dNormActivation(inner, out, 1, **more)] if lite else []),
    )


def group_norm(channels: int) -> nn.Module:
    """A norm that has no statistics, so that a batch can be one image and a map one place."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def ssd(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """SSD: a conv of 3 x 3 on each map."""
    return _over(backbone, channels, False, lambda maps, anchors: SSDHead(maps, anchors, classes + 1))


def ssdlite(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """SSDLite: a depthwise conv and one of 1 x 1 on each map."""
    return _over(backbone, channels, True, lambda maps, anchors: SSDLiteHead(maps, anchors, classes + 1, group_norm))


def _over(backbone: nn.Module, channels: list[int], lite: bool, head: Callable[[list[int], list[int]], nn.Module]) -> nn.Module:
    neck = Extras(channels, lite)
    count = len(neck.channels)
    anchors = DefaultBoxGenerator(RATIOS[:count], scales=SCALES[: count + 1])
    return Detector(backbone, neck, head(neck.channels, anchors.num_anchors_per_location()), anchors, UNITS)


def of_torchvision(model: SSD, size: int) -> Detector:
    """torchvision's own SSD for images of ``size`` pixels, as a detector that gives one tensor."""
    anchors: DefaultBoxGenerator = model.anchor_generator
    if size != model.transform.fixed_size[0]:
        anchors.steps = None  # the places of another size's maps
    return Detector(model.backbone, nn.Identity(), model.head, anchors, UNITS)


def last_layers(head: nn.Module, name: str) -> tuple[str, ...]:
    """Names of the layers that give the outputs of an SSD head, which is called ``name``: what a number of classes changes, and no norm."""
    found = {}
    for own, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            found[".".join(own.split(".")[:3])] = f"{name}.{own}"  # classification_head.module_list.0: the last conv of each map
    return tuple(found.values())

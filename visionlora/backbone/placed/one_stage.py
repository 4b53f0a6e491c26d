"""Detectors in one stage that go over a feature pyramid: FCOS (Tian et al. 2019) and RetinaNet (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from visionlora.backbone.placed.maps import Neck, OverMaps, exactly, is_narrow

CHANNELS, CONVS = (256, 96), (4, 2)
"""Of pyramid and head, and layers of each branch of an FCOS head: torchvision's, and the narrower ones'."""
BEND = 0.125
"""Of ``SquarePlus``, which is half the root of it at 0."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of RetinaNet's anchors."""


class Detector(OverMaps):
    """Backbone, neck and head of one stage. The columns of the output are the anchor (left, top, right, bottom), four numbers of the box,
    what the head says beside the classes, and a logit a class; places are shares of the input's side.

    Beside the classes, FCOS says the centre-ness; of SSD, it is the four units of the numbers of the box (as in the priors of its first
    implementation) and a logit for the background, before the others.

    Args:
        backbone: see ``OverMaps``.
        neck: see ``OverMaps``.
        head: of torchvision: from maps to what it says of each anchor.
        anchors: of torchvision: at every place of each map.
        units: the four of SSD; ``None`` for the others, whose boxes are in units of the anchors.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: nn.Module, anchors: nn.Module, units: tuple[float, ...] | None = None
    ) -> None:
        super().__init__(backbone, neck)
        self.head, self.anchors, self.units = head, anchors, units

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, S, S) -> (N, anchors, 4 + 4 + (0, 1 or 5) + classes)``."""
        maps = self.maps(images)
        found = self.head(maps) if self.units is None else exactly(self.head, maps)
        anchors = anchors_of(self.anchors, images, maps).expand(images.shape[0], -1, -1)
        between = [found["bbox_ctrness"]] if "bbox_ctrness" in found else []
        if self.units is not None:
            between = [anchors.new_tensor(self.units).expand_as(anchors)]
        return torch.cat([anchors, found["bbox_regression"], *between, found["cls_logits"]], dim=2)


class SquarePlus(nn.Module):
    """A smooth rectifier whose gradient does not vanish on the left (Barron 2021, arXiv 2112.11687).

    In torchvision's FCOS how far the sides of a box are passes a plain one. Where that is 0 at every place it has no gradient, and stays 0:
    with objects of 12 pixels every box lost its area within an epoch, and mAP was 0. After this one it changes nothing.
    """

    def forward(self, numbers: Tensor) -> Tensor:
        """``(...) -> (...)``, above 0 and at least in float32, which the root needs."""
        numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))
        return (numbers + (numbers.square() + BEND).sqrt()) / 2


def anchors_of(generator: nn.Module, images: Tensor, maps: list[Tensor]) -> Tensor:
    """Every anchor of an image of the batch, in shares of its side, float32 ``(anchors, 4)``."""
    listed = ImageList(images.float(), [(images.shape[-2], images.shape[-1])])
    return generator(listed, [one.float() for one in maps])[0] / float(images.shape[-1])  # type: ignore[no-any-return]


def fcos(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """FCOS over a backbone that gives maps of so many channels, with so many pixels between their places."""
    narrow = is_narrow(channels)
    sizes = tuple((step,) for step in (*steps, 2 * steps[-1]))
    head = FCOSHead(CHANNELS[narrow], 1, classes, CONVS[narrow])
    head.regression_head.bbox_reg = nn.Sequential(head.regression_head.bbox_reg, SquarePlus())
    nn.init.ones_(head.regression_head.bbox_reg[0].bias)  # boxes of two steps at first
    return Detector(backbone, Neck(channels, CHANNELS[narrow]), head, AnchorGenerator(sizes, ((1.0,),) * len(sizes)))


def retinanet(backbone: nn.Module, channels: list[int], steps: list[int], classes: int) -> nn.Module:
    """RetinaNet over such a backbone."""
    width = CHANNELS[is_narrow(channels)]
    sizes = tuple(tuple(round(4 * step * 2 ** (third / 3)) for third in range(3)) for step in (*steps, 2 * steps[-1]))
    head = RetinaNetHead(width, len(sizes[0]) * len(RATIOS), classes, norm_layer=_norm)
    return Detector(backbone, Neck(channels, width), head, AnchorGenerator(sizes, (RATIOS,) * len(sizes)))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)

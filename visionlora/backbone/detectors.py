"""One-stage detectors of torchvision over any timm model: ``(N, C, S, S) -> (N, anchors, columns)``.

What torchvision's detectors give in training are losses, and in evaluation lists of boxes. Here it is the same tensor in both, so that a
detector can be audited, folded, exported and compared as any model: what the head says of each anchor, with the anchor itself. What is made
of it is the task's (``tasks/detect``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork

from visionlora.backbone.info import BackboneInfo, BackboneSpec
from visionlora.backbone.timm_models import features_arguments, preprocessing_of, without_word_of_heads
from visionlora.backbone.weights import hub_access
from visionlora.common.errors import UserError

NARROW = 512
"""Channels of the backbone's last map below which pyramid and head are narrower than torchvision's, which are made for ResNets."""
CHANNELS, CONVS = (256, 96), (4, 2)
"""Of pyramid and head, and layers of each branch of an FCOS head: torchvision's, and the narrower ones'."""
FINEST, COARSEST = 8, 32
"""Pixels between the places of the backbone's maps that are used."""
HEAD = ("neck", "head")
"""What is made anew over the backbone."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of RetinaNet's anchors."""


class Extra(nn.Module):
    """One map more than the backbone has, at half the resolution: for large objects."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, last: Tensor) -> Tensor:
        return self.conv(last)  # type: ignore[no-any-return]


class Neck(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144) and one map more."""

    def __init__(self, channels: list[int], out: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(channels, out)
        self.extra = Extra(out)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found = list(self.pyramid(OrderedDict((str(place), one) for place, one in enumerate(maps))).values())
        return [*found, self.extra(found[-1])]


class Detector(nn.Module):
    """Backbone, pyramid and head. The columns of the output are the anchor (left, top, right, bottom), four numbers of the box, the
    centre-ness where the head has it, and a logit a class; places are shares of the input's side.

    Args:
        backbone: ``(N, C, S, S) ->`` maps of features, finest first.
        neck: from these to maps of equally many channels.
        head: of torchvision: from these to what it says of each anchor.
        anchors: at every place of each map.
        channels_last: the maps are ``(N, H, W, C)``.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: nn.Module, anchors: AnchorGenerator, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.anchors = backbone, neck, head, anchors
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, S, S) -> (N, anchors, 4 + 4 + (0 or 1) + classes)``."""
        maps = self.backbone(images)
        maps = list(maps.values()) if isinstance(maps, dict) else maps  # torchvision's backbones have names for them
        if self.channels_last:
            maps = [one.permute(0, 3, 1, 2).contiguous() for one in maps]
        pyramid = self.neck(maps)
        found = self.head(pyramid)
        side = float(images.shape[-1])
        size = (images.shape[-2], images.shape[-1])
        anchors = self.anchors(ImageList(images.float(), [size]), [one.float() for one in pyramid])[0] / side
        columns = [anchors.expand(images.shape[0], -1, -1), found["bbox_regression"], *_centreness(found), found["cls_logits"]]
        return torch.cat(columns, dim=2)


def _centreness(found: dict[str, Tensor]) -> list[Tensor]:
    return [found["bbox_ctrness"]] if "bbox_ctrness" in found else []


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec.name`` with its weights, if ``load``, and the detector ``spec.decoder`` over it with random ones.

    Raises:
        UserError: the model gives no maps of features at the steps that a detector takes, or its weights cannot be had.
    """
    if spec.source != "timm":
        raise UserError(f"model.decoder={spec.decoder} goes over models of timm, and {spec.full_name} is none.")
    arguments = features_arguments(spec, load)
    steps, places = _levels(spec)
    with hub_access(f"timm's {spec.name}", hugging_face=True), without_word_of_heads():
        try:
            backbone = timm.create_model(spec.name, features_only=True, in_chans=spec.in_chans, out_indices=places, **arguments)
        except (RuntimeError, TypeError, AssertionError, ValueError, KeyError, IndexError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"model.decoder={spec.decoder} cannot be put over {spec.full_name}: {why}; try another model.") from None
    steps = [*steps, 2 * steps[-1]]
    narrow = backbone.feature_info.channels()[-1] < NARROW
    width = CHANNELS[narrow]
    sizes: tuple[tuple[int, ...], ...]
    ratios: tuple[float, ...]
    if spec.decoder == "fcos":
        sizes, ratios = tuple((step,) for step in steps), (1.0,)
        head: nn.Module = FCOSHead(width, 1, spec.num_classes, CONVS[narrow])
    else:
        sizes, ratios = tuple(tuple(round(4 * step * 2 ** (third / 3)) for third in range(3)) for step in steps), RATIOS
        head = RetinaNetHead(width, len(sizes[0]) * len(ratios), spec.num_classes, norm_layer=_norm)
    neck = Neck(backbone.feature_info.channels(), width)
    anchors = AnchorGenerator(sizes, (ratios,) * len(sizes))
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    model = Detector(backbone, neck, head, anchors, last)
    return model, BackboneInfo(spec, preprocessing_of(spec), HEAD, remade=_remade(spec, backbone))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


def _levels(spec: BackboneSpec) -> tuple[list[int], list[int]]:
    """The steps of the maps that are used, in pixels, and their places among the model's.

    Raises:
        UserError: the model has none of them.
    """
    with torch.device("meta"):
        try:
            known: Any = timm.create_model(spec.name, features_only=True).feature_info.reduction()
        except (RuntimeError, AttributeError, TypeError, AssertionError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"model.decoder={spec.decoder} cannot be put over {spec.full_name}: it gives no maps of features ({why})."
            ) from None
    found = {int(step): place for place, step in enumerate(known) if FINEST <= step <= COARSEST}  # of several at a step, the last
    if not found:
        raise UserError(
            f"model.decoder={spec.decoder}: {spec.full_name} has no maps of features at steps of {FINEST} to {COARSEST} pixels."
        )
    return list(found), list(found.values())


def _remade(spec: BackboneSpec, backbone: nn.Module) -> tuple[str, ...]:
    """The first layer, where it was made anew for another number of channels."""
    first = next((name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)), None)
    return (f"backbone.{first}",) if spec.in_chans != 3 and first else ()

"""Maps of features of a timm model, finest first, and what goes over them: what decoders of masks and detectors have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from visionlora.backbone.info import BackboneSpec, Preprocessing
from visionlora.backbone.timm_models import features_arguments, preprocessing_of, without_word_of_heads
from visionlora.backbone.weights import hub_access
from visionlora.common.errors import UserError

NARROW = 512
"""Channels of the backbone's last map below which what goes over it is narrower than the library's, which is made for ResNets."""
COARSEST = 32
"""Pixels between the places of the coarsest map of a backbone that a detector uses."""


def feature_info(spec: BackboneSpec) -> Any:
    """timm's own word on the maps of features of ``spec.name``: ``channels()`` and ``reduction()``, the pixels between places.

    Raises:
        ValueError: the model gives none, and why.
    """
    with torch.device("meta"):
        try:
            return timm.create_model(spec.name, features_only=True).feature_info
        except (RuntimeError, AttributeError, TypeError, AssertionError, ValueError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None


def is_narrow(channels: Sequence[int]) -> bool:
    """Whether the last of these maps has few channels."""
    return channels[-1] < NARROW


def remade(spec: BackboneSpec, encoder: nn.Module, prefix: str) -> tuple[str, ...]:
    """Name of the first layer, where it was made anew for another number of channels; ``prefix`` begins the names of the encoder's."""
    first = next((name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)), None)
    return (f"{prefix}.{first}",) if spec.in_chans != 3 and first else ()


def backbone_of(spec: BackboneSpec, load: bool, finest: int) -> tuple[nn.Module, list[int]]:
    """Build ``spec.name`` with its weights, if ``load``, so that it gives maps; and the pixels between the places of each.

    Args:
        spec: what to build.
        load: whether pretrained weights are loaded.
        finest: pixels between the places of the finest map that is used.

    Raises:
        UserError: the model gives no maps at these steps, or its weights cannot be had.
    """
    arguments = features_arguments(spec, load)
    try:
        known = feature_info(spec)
    except ValueError as error:
        raise UserError(
            f"model.decoder={spec.decoder} cannot be put over {spec.full_name}: it gives no maps of features ({error})."
        ) from None
    # timm counts the maps of some models from another number than 0: of a ViT, it shows those of the last blocks.
    steps = zip(known.out_indices, known.reduction(), strict=True)
    found = {int(step): place for place, step in steps if finest <= step <= COARSEST}  # of several at a step, the last
    if not found:
        raise UserError(
            f"model.decoder={spec.decoder}: {spec.full_name} has no maps of features at steps of {finest} to {COARSEST} pixels."
        )
    places = list(found.values())
    with hub_access(f"timm's {spec.name}", hugging_face=True), without_word_of_heads():
        try:
            backbone = timm.create_model(spec.name, features_only=True, in_chans=spec.in_chans, out_indices=places, **arguments)
        except (RuntimeError, TypeError, AssertionError, ValueError, KeyError, IndexError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"model.decoder={spec.decoder} cannot be put over {spec.full_name}: {why}; try another model.") from None
    _without_unused(backbone, places)
    without_reserved_name(backbone)
    return backbone, list(found)


def _without_unused(backbone: nn.Module, places: list[int]) -> None:
    """Take out of an HRNet what makes nothing but maps that are not asked for: it computes all of them, whatever is asked for.

    Adapters there would never learn. timm's map 0 is the stem's, the others are those of the branches of the last stage.
    """
    if not isinstance(backbone, HighResolutionNetFeatures):
        return
    last: Any = backbone.stage4[-1]
    for branch in range(len(last.fuse_layers)):
        if branch + 1 not in places:
            last.fuse_layers[branch] = nn.ModuleList([nn.Identity()])
            if backbone.incre_modules is not None:
                backbone.incre_modules[branch] = nn.Identity()


def without_reserved_name(features: nn.Module) -> None:
    """Give the ``base_layer`` of a DLA another name: that is a word of the files that adapters are kept in, and not read back as a name.

    Args:
        features: a timm model that gives maps, of which it is a child.
    """
    children = dict(features.named_children())
    if "base_layer" in children:
        for name in children:
            delattr(features, name)
        for name, child in children.items():  # in the order in which they are run
            features.add_module("stem" if name == "base_layer" else name, child)


def wide(t: Tensor) -> Tensor:
    """``t`` in float32, or in what is wider where it is: for places, which half precision rounds to pixels."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


class OverMaps(nn.Module):
    """A backbone and what makes maps of equally many channels of its maps.

    Args:
        backbone: ``(N, C, S, S) ->`` maps of features, finest first.
        neck: from these to the maps that the head takes.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the neck makes of ``images (N, C, S, S)``, each map ``(N, channels, H, W)``."""
        found = self.backbone(images)
        found = list(found.values()) if isinstance(found, dict) else found  # torchvision's backbones have names for them
        if self.channels_last:
            found = [one.permute(0, 3, 1, 2).contiguous() for one in found]
        return self.neck(found)  # type: ignore[no-any-return]


def exactly(module: nn.Module, maps: Tensor | list[Tensor]) -> Any:
    """``module(maps)``, without a CPU's autocast: for maps of a single place, whose convs have padding.

    oneDNN leaves most of the gradient of such a conv's weights unwritten in bfloat16 (seen with torch 2.14 on AVX-512).
    """
    if not torch.is_autocast_enabled("cpu"):
        return module(maps)
    dtype = next(module.parameters()).dtype
    with torch.autocast("cpu", enabled=False):
        return module(maps.to(dtype) if isinstance(maps, Tensor) else [one.to(dtype) for one in maps])


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


def preprocessing_at_least(spec: BackboneSpec, size: int) -> Preprocessing:
    """timm's, at ``size`` pixels a side and more where the model takes any: backbones are made for 224, at which what is small or thin
    in an image is hardly there.
    """
    found = preprocessing_of(spec)
    config = timm.get_pretrained_cfg(spec.name)
    any_size = spec.image_size is None and not (config and config.fixed_input_size)
    return replace(found, image_size=max(found.image_size, size)) if any_size else found

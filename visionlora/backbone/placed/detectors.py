"""Detectors of torchvision over any timm model: ``(N, C, S, S) -> (N, rows, columns)``.

What torchvision's detectors give in training are losses, and in evaluation lists of boxes. Here it is the same tensor in both, so that a
detector can be audited, folded, exported and compared as any model: what the head says of each anchor, with the anchor itself. What is made
of it is the task's (``tasks/detect``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from visionlora.backbone.info import BackboneInfo, BackboneSpec
from visionlora.backbone.placed.maps import backbone_of, preprocessing_at_least, remade
from visionlora.backbone.placed.one_stage import fcos, retinanet
from visionlora.backbone.placed.single_shot import ssd, ssdlite
from visionlora.backbone.placed.two_stage import faster_rcnn
from visionlora.backbone.placed.two_stage_masks import mask_rcnn
from visionlora.common.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A detector that goes over a backbone.

    Args:
        over: from a backbone that gives maps, the channels of these, the pixels between their places, and the number of classes to the
            detector.
        made: names of the modules that are made anew.
        finest: pixels between the places of the finest map that is used.
    """

    over: Callable[[nn.Module, list[int], list[int], int], nn.Module]
    made: tuple[str, ...] = ("neck", "head")
    finest: int = 8


KINDS = {
    "fcos": Kind(fcos),
    "retinanet": Kind(retinanet),
    "ssd": Kind(ssd),
    "ssdlite": Kind(ssdlite),
    "faster_rcnn": Kind(faster_rcnn, ("neck", "rpn", "roi_heads"), 4),
    "mask_rcnn": Kind(mask_rcnn, ("neck", "rpn", "roi_heads"), 4),
}
"""By the name of ``model.decoder``."""
SIZE = 320
"""Pixels a side where ``data.image_size`` is not given: on blood cells mAP was 53.3 at 224 and 57.7 at 320 (docs/boxes.md)."""


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec.name`` with its weights, if ``load``, and the detector ``spec.decoder`` over it with random ones.

    Raises:
        UserError: the model gives no maps of features at the steps that a detector takes, or its weights cannot be had.
    """
    if spec.source != "timm":
        raise UserError(f"model.decoder={spec.decoder} goes over models of timm, and {spec.full_name} is none.")
    kind = KINDS[str(spec.decoder)]
    backbone, steps = backbone_of(spec, load, kind.finest)
    known: Any = backbone.feature_info
    model = kind.over(backbone, known.channels(), steps, spec.num_classes)
    return model, BackboneInfo(spec, preprocessing_at_least(spec, SIZE), kind.made, remade=remade(spec, backbone, "backbone"))

"""Names of what goes over a backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visionlora.common.registry import Registry

DECODERS: Registry[Callable[..., Any]] = Registry(
    "model.decoder",
    "visionlora.decoders",
    **dict.fromkeys(
        ("fpn", "unet", "unetplusplus", "manet", "linknet", "pan", "deeplabv3", "deeplabv3plus", "upernet", "segformer", "dpt"),
        "visionlora.backbone.placed.segmenters:build",
    ),
    **dict.fromkeys(("fcos", "retinanet", "ssd", "ssdlite", "faster_rcnn", "mask_rcnn"), "visionlora.backbone.placed.detectors:build"),
)
"""What goes over a backbone in place of its head -> ``build``, as for ``BACKBONES``."""

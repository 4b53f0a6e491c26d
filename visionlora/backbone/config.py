"""The schema of ``model``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visionlora.common.config import at_least, fraction, off, one_of
from visionlora.common.registry import Registry

BACKBONES: Registry[Callable[..., Any]] = Registry(
    "model.source",
    "visionlora.backbones",
    timm="visionlora.backbone.timm_models:build",
    torchvision="visionlora.backbone.torchvision_models:build",
)
"""Name of a library -> ``build(spec: BackboneSpec, load: bool) -> (model, BackboneInfo)``; ``load`` asks for pretrained weights."""


DECODERS: Registry[Callable[..., Any]] = Registry(
    "model.decoder",
    "visionlora.decoders",
    **dict.fromkeys(
        ("fpn", "unet", "unetplusplus", "manet", "linknet", "pan", "deeplabv3", "deeplabv3plus", "upernet", "segformer", "dpt"),
        "visionlora.backbone.segmenters:build",
    ),
    **dict.fromkeys(("fcos", "retinanet", "ssd", "ssdlite", "faster_rcnn", "mask_rcnn"), "visionlora.backbone.detectors:build"),
)
"""What goes over a backbone in place of its head -> ``build``, as for ``BACKBONES``."""


@dataclass
class ModelConfig:
    """The backbone; see ``backbone.create.create_backbone``."""

    source: str
    name: str
    pretrained: bool = True
    weights: str | None = None
    in_chans: int = 3
    stem: str = "default"
    decoder: str | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    freeze_bn: bool = True
    fold_bn: str = "auto"
    head_init: str = "random"
    checkpointing: str = "none"
    compile: bool = False
    quantize: str | None = None

    def __post_init__(self) -> None:
        BACKBONES.check(self.source)
        if self.decoder is not None:
            DECODERS.check(self.decoder)
        self.fold_bn = off(self.fold_bn)
        one_of("model.fold_bn", self.fold_bn, ("auto", "off"))
        one_of("model.checkpointing", self.checkpointing, ("none", "light", "blocks"))
        if self.quantize is not None:
            one_of("model.quantize", self.quantize, ("int8",))
        one_of("model.head_init", self.head_init, ("random", "probe", "pretrained"))
        one_of("model.stem", self.stem, ("default", "small"))
        at_least("model.in_chans", self.in_chans, 1)
        fraction("model.drop_rate", self.drop_rate)
        fraction("model.drop_path_rate", self.drop_path_rate)

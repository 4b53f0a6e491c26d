"""torchvision's own models for masks and one-stage models for boxes, as ``task=segment`` and ``task=detect`` take them."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from visionlora.backbone.detectors import Detector
from visionlora.backbone.info import BackboneInfo, BackboneSpec, Preprocessing
from visionlora.backbone.weights import hub_access, read_weights
from visionlora.common.errors import UserError
from visionlora.common.swap import Swapped, swap

DETECTORS = ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2")
"""What finds boxes in one stage."""
SIZE = {"segment": 224, "detect": 320}
"""Pixels a side where ``data.image_size`` is not given; torchvision's own, of 520 and 800, take minutes a step on a CPU."""


class OneTensor(Swapped):
    """Mixin: of the outputs by name that a segmentation model gives, the one that counts."""

    prefix = "Plain"

    def forward(self, images: Tensor) -> Tensor:
        found: dict[str, Tensor] = super().forward(images)
        return found["out"]


def segmenters() -> list[str]:
    """Names of torchvision's models for masks."""
    return list(torchvision.models.list_models(module=torchvision.models.segmentation))


def kind_of_model(name: str) -> str | None:
    """``segment`` or ``detect``, for what a model of torchvision is made; ``None`` for a classifier."""
    return "detect" if name in DETECTORS else "segment" if name in segmenters() else None


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec.name`` with its weights, if ``load``: those of COCO, but for the layers that have another number of classes.

    Raises:
        UserError: another number of channels than three, or the weights cannot be had or do not fit.
    """
    if spec.in_chans != 3:
        raise UserError(f"model.in_chans={spec.in_chans}: {spec.full_name} takes images of three channels.")
    kind = kind_of_model(spec.name)
    assert kind is not None
    more: dict[str, Any] = {"aux_loss": False} if kind == "segment" and not spec.name.startswith("lraspp") else {}
    model: Any = torchvision.models.get_model(spec.name, weights=None, weights_backbone=None, num_classes=spec.num_classes, **more)
    if load:
        _load(model, spec)
    size = spec.image_size or SIZE[kind]
    # All of them are trained with the statistics of ImageNet.
    preprocessing = Preprocessing(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 1.0)
    if kind == "segment":
        swap(model, OneTensor)
        return model, BackboneInfo(spec, preprocessing, ("classifier",))
    detector = Detector(model.backbone, nn.Identity(), model.head, model.anchor_generator)
    return detector, BackboneInfo(spec, preprocessing, ("head",))


def _load(model: nn.Module, spec: BackboneSpec) -> None:
    """Load weights by name, without those of another shape: the last layers, where the number of classes differs."""
    own = model.state_dict()
    state: dict[str, torch.Tensor]
    if spec.weights is not None:
        state = read_weights(spec.weights, own)
    else:
        with hub_access(f"torchvision's {spec.name}"):
            state = torchvision.models.get_model_weights(spec.name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    below = [key for key in own if key.startswith("backbone.") and not key.endswith("num_batches_tracked")]
    lacking = [key for key in below if key not in fitting]
    if lacking:
        raise UserError(f"model.weights={spec.weights} does not fit {spec.full_name}: {len(lacking)} keys differ, {lacking[0]} first.")
    model.load_state_dict(fitting, strict=False)

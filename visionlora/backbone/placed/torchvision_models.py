"""torchvision's own models for masks and for boxes, as ``task=segment`` and ``task=detect`` take them."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.ssd import SSD

from visionlora.backbone.info import BackboneInfo, BackboneSpec, Preprocessing
from visionlora.backbone.placed import single_shot, two_stage, two_stage_masks
from visionlora.backbone.placed.one_stage import Detector
from visionlora.backbone.weights import hub_access, read_weights
from visionlora.common.errors import UserError
from visionlora.common.swap import Swapped, swap

DETECTORS = {
    "fcos_resnet50_fpn": "fcos",
    "retinanet_resnet50_fpn": "retinanet",
    "retinanet_resnet50_fpn_v2": "retinanet",
    "ssd300_vgg16": "ssd",
    "ssdlite320_mobilenet_v3_large": "ssdlite",
    "fasterrcnn_resnet50_fpn": "faster_rcnn",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn",
    "fasterrcnn_mobilenet_v3_large_fpn": "faster_rcnn",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "faster_rcnn",
    "maskrcnn_resnet50_fpn": "mask_rcnn",
    "maskrcnn_resnet50_fpn_v2": "mask_rcnn",
}
"""What finds boxes, and what it is over its backbone, as ``model.decoder`` calls it."""
WITHOUT_BACKGROUND = ("fcos", "retinanet")
"""Those that have no logit for what is no object."""
SIZE = {"segment": 224, "detect": 320}
"""Pixels a side where ``data.image_size`` is not given, but for SSD, which is made for one size; torchvision's own, of 520 and 800, take
minutes a step on a CPU."""


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


def detector_of(spec: BackboneSpec) -> str | None:
    """What is over the backbone, as ``model.decoder`` calls it; ``None`` where that is nothing of ours and no detector of torchvision's."""
    return spec.decoder or DETECTORS.get(spec.name)


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec.name`` with its weights, if ``load``: those of COCO, but for the layers that have another number of classes.

    Raises:
        UserError: another number of channels than three, or the weights cannot be had or do not fit.
    """
    if spec.in_chans != 3:
        raise UserError(f"model.in_chans={spec.in_chans}: {spec.full_name} takes images of three channels.")
    kind = kind_of_model(spec.name)
    assert kind is not None
    if kind == "detect":
        return _detector(spec, load)
    more = {} if spec.name.startswith("lraspp") else {"aux_loss": False}
    model = _create(spec, spec.num_classes, load, **more)
    # All of them are trained with the statistics of ImageNet.
    preprocessing = Preprocessing(spec.image_size or SIZE[kind], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 1.0)
    swap(model, OneTensor)
    return model, BackboneInfo(spec, preprocessing, ("classifier",))


def _detector(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """A detector, with what is made anew in it: the head of one stage, or where that has norms or is large, the last layers."""
    theirs = _create(spec, spec.num_classes + (DETECTORS[spec.name] not in WITHOUT_BACKGROUND), load)
    size = spec.image_size or SIZE["detect"]
    model: nn.Module
    head: tuple[str, ...]
    if isinstance(theirs, MaskRCNN):
        model, head = two_stage_masks.of_torchvision(theirs), ("roi_heads.box_predictor", two_stage_masks.LAST)
    elif isinstance(theirs, FasterRCNN):
        model, head = two_stage.of_torchvision(theirs), ("roi_heads.box_predictor",)
    elif isinstance(theirs, SSD):
        size = spec.image_size or int(theirs.transform.fixed_size[0])
        model, head = single_shot.of_torchvision(theirs, size), single_shot.last_layers(theirs.head, "head")
    else:
        model, head = Detector(theirs.backbone, nn.Identity(), theirs.head, theirs.anchor_generator), ("head",)
    mean, std = tuple(theirs.transform.image_mean), tuple(theirs.transform.image_std)
    return model, BackboneInfo(spec, Preprocessing(size, mean, std, "bilinear", 1.0), head)


def _create(spec: BackboneSpec, classes: int, load: bool, **more: Any) -> Any:
    model = torchvision.models.get_model(spec.name, weights=None, weights_backbone=None, num_classes=classes, **more)
    if isinstance(model, MaskRCNN):
        two_stage_masks.for_all_classes(model)
    if load:
        _load(model, spec)
    return model


def _load(model: nn.Module, spec: BackboneSpec) -> None:
    """Load weights by name, without those of another shape: the last layers, where the number of classes differs."""
    own = model.state_dict()
    state: dict[str, torch.Tensor]
    if spec.weights is not None:
        state = read_weights(spec.weights, own)
    else:
        with hub_access(f"torchvision's {spec.name}"):
            state = torchvision.models.get_model_weights(spec.name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    if isinstance(model, MaskRCNN):
        state = two_stage_masks.of_all_classes(state)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    below = [key for key in own if key.startswith("backbone.") and not key.endswith("num_batches_tracked")]
    lacking = [key for key in below if key not in fitting]
    if lacking:
        raise UserError(f"model.weights={spec.weights} does not fit {spec.full_name}: {len(lacking)} keys differ, {lacking[0]} first.")
    model.load_state_dict(fitting, strict=False)

"""torchvision's own models for masks and boxes: what they give, trained layers, and the same numbers as torchvision's own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import visionlora as vl
from visionlora.backbone.head import find_head
from visionlora.backbone.placed.torchvision_models import DETECTORS, segmenters
from visionlora.backbone.roles import Roles
from visionlora.tasks.detect.alignment import same_rows

SMALL = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")


def names() -> list[Any]:
    return [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in segmenters()]


@pytest.mark.parametrize("name", names())
def test_masks(name: str) -> None:
    torch.manual_seed(0)
    more = {} if name.startswith("lraspp") else {"aux_loss": False}
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **more).eval()
    model = vl.create_backbone(f"torchvision/{name}", 4, False, image_size=64).eval()
    model.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images)["out"])
    check(model, images)


DENSE = [name for name in DETECTORS if name.startswith(("fcos", "retinanet"))]
OTHERS = (
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    pytest.param("maskrcnn_resnet50_fpn", marks=pytest.mark.slow),
    pytest.param("maskrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("name", [DENSE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in DENSE[1:])])
def test_boxes(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    model = vl.create_backbone(f"torchvision/{name}", 4, False, image_size=64).eval()
    assert not model.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = theirs.head(list(theirs.backbone(images).values()))
        torch.testing.assert_close(model(images)[..., -4:], found["cls_logits"])
        torch.testing.assert_close(model(images)[..., 4:8], found["bbox_regression"])
    check(model, images)


@pytest.mark.parametrize("name", OTHERS)
def test_boxes_of_other_detectors(name: str) -> None:
    """The numbers are compared in tests/tasks/detect/test_against_torchvision.py."""
    torch.manual_seed(0)
    check(vl.create_backbone(f"torchvision/{name}", 4, False, image_size=64).eval(), torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "stages", "of_first", "of_last"),
    [
        ("fcos_resnet50_fpn", 4, "backbone.body.layer1", "backbone.fpn"),
        ("fasterrcnn_resnet50_fpn", 4, "backbone.body.layer1", "roi_heads.box_head"),
        ("maskrcnn_resnet50_fpn", 4, "backbone.body.layer1", "roi_heads.mask_predictor.conv5_mask"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 16, "backbone.body.1.", "rpn.head"),
        ("ssdlite320_mobilenet_v3_large", 21, "backbone.features.0.1.", "backbone.extra.3"),
        ("ssd300_vgg16", 14, "backbone.features.2", "backbone.extra.4"),
    ],
)
def test_stages_of_detectors(name: str, stages: int, of_first: str, of_last: str) -> None:
    """What comes after the last stage, and is not made anew, belongs to it."""
    model = vl.create_backbone(f"torchvision/{name}", 4, False)
    roles = Roles(model, find_head(model))
    found = roles.groups("stages")[1:]
    assert len(found) == stages
    assert any(layer.startswith(of_first) for layer in found[0])
    assert any(layer.startswith(of_last) for layer in found[-1])
    assert not any(layer.startswith("backbone.body.layer2") for layer in found[0])


def check(model: nn.Module, images: torch.Tensor) -> None:
    """Identical at the start, gradients everywhere (the audit), merged exactly."""
    with torch.no_grad():
        before = model(images)
    report = vl.inject(model, vl.LoraConfig(r=2))
    assert report.layers
    made = tuple(f"{name}." for name in find_head(model))
    assert not any(f"{layer.name}.".startswith(made) for layer in report.layers)
    with torch.no_grad():
        size = max(1.0, float(before.abs().max())) if before.shape[-1] > 784 else 1.0  # logits of masks at random are large
        torch.testing.assert_close(model(images), before, atol=1e-4 * size, rtol=1e-4)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                nn.init.normal_(parameter, std=0.01)
        changed = model(images)
        vl.merge(model)
        found, wanted = same_rows(model(images), changed, 4)
        torch.testing.assert_close(found, wanted, atol=1e-3 * size, rtol=1e-3)

"""torchvision's own models for masks and boxes: what they give, trained layers, and the same numbers as torchvision's own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import visionlora as vl
from visionlora.backbone.torchvision_placed import DETECTORS, segmenters

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
    check(model, images, "classifier")


@pytest.mark.parametrize("name", [DETECTORS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS[1:])])
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
    check(model, images, "head")


def check(model: nn.Module, images: torch.Tensor, head: str) -> None:
    """Identical at the start, gradients everywhere (the audit), merged exactly."""
    with torch.no_grad():
        before = model(images)
    report = vl.inject(model, vl.LoraConfig(r=2))
    assert not any(layer.name.startswith(head) for layer in report.layers)
    with torch.no_grad():
        torch.testing.assert_close(model(images), before, atol=1e-4, rtol=1e-4)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                nn.init.normal_(parameter, std=0.01)
        changed = model(images)
        vl.merge(model)
        torch.testing.assert_close(model(images), changed, atol=1e-3, rtol=1e-3)

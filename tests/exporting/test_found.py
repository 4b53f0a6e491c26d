"""The boxes that a graph of ONNX finds by itself are those that torchvision's suppression leaves of the model's outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import visionlora as vl
from visionlora.backbone.info import info_of
from visionlora.exporting.facts import Facts
from visionlora.exporting.formats import FORMATS
from visionlora.tasks.detect.layout import detections
from visionlora.tasks.detect.task import Detect

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIDE, CLASSES = 64, 3


def model_of(decoder: str) -> nn.Module:
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", CLASSES, False, decoder=decoder, image_size=SIDE).eval()
    for name, parameter in model.named_parameters():  # so that there are boxes of all scores
        if name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_reg.0.weight", "bbox_pred.weight", "bbox_ctrness.weight")):
            nn.init.normal_(parameter, std=0.2)
    return model


def found_of(model: nn.Module, images: Tensor, folder: Path) -> Tensor:
    info = info_of(model)
    assert info is not None
    facts = Facts.of_run(replace(info, task={"name": "detect"}))
    with torch.no_grad():
        FORMATS["onnx"].write(model, facts, folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits", "found"]
    logits, found = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), FORMATS["onnx"].read(folder, facts, model)(images))
    return torch.from_numpy(found)


@pytest.mark.slow  # FCOS as a run's export is in tests/training/test_placed.py
@pytest.mark.parametrize("decoder", Detect.decoders)
@torch.no_grad()
def test_the_graph_finds_the_same_boxes(decoder: str, tmp_path: Path) -> None:
    model, images = model_of(decoder), torch.randn(3, 3, SIDE, SIDE)  # it is traced with two
    found = found_of(model, images, tmp_path)
    outputs = model(images)
    assert (found[:, 2].diff() <= 0).all()
    for image, wanted in enumerate(detections(outputs, CLASSES)):
        wanted = wanted[wanted[:, 0] >= 0]
        own = found[found[:, 0] == image][: len(wanted)]
        assert len(wanted) > 20
        apart = (own[:, None, 1:7] - wanted[:, :6]).abs().amax(2)
        assert (apart.amin(0) < 1e-3).float().mean() > 0.95  # where an overlap is just the limit, rounding decides
        anchors = outputs[image, own[:, 7].long()]
        assert (anchors[:, 0] > 0).all() if "rcnn" in decoder else True


@pytest.mark.slow
@torch.no_grad()
def test_nothing_is_found(tmp_path: Path) -> None:
    model = model_of("fcos")
    for name, parameter in model.named_parameters():
        if name.endswith("cls_logits.bias"):
            nn.init.constant_(parameter, -1e4)
    assert found_of(model, torch.randn(1, 3, SIDE, SIDE), tmp_path).shape == (0, 8)

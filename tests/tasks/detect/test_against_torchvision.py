"""SSD and Faster R-CNN as one tensor: the losses and the boxes are those of torchvision's own models with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from placed import some_targets
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

import visionlora as vl
from visionlora.backbone.freeze import freeze_statistics
from visionlora.backbone.placed.two_stage import CANDIDATES, OF_ANCHOR, PROPOSALS, packed, unpacked
from visionlora.tasks.detect.layout import detections
from visionlora.tasks.detect.losses import detection_loss
from visionlora.tasks.detect.masks import OF_TRUE
from visionlora.tasks.detect.said import Said, kind_of

CLASSES = 3
SSD = {"ssdlite320_mobilenet_v3_large": 128, "ssd300_vgg16": 300}
TWO_STAGES = [name for name in torchvision.models.list_models() if name.startswith("fasterrcnn")]
SMALL = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")


def slow_but(names: Any) -> list[Any]:
    return [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in names]


def both(name: str, side: int) -> tuple[nn.Module, Any, Tensor]:
    """Our model, torchvision's with the same weights, and images."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    for key, parameter in theirs.named_parameters():  # so that there are boxes of all scores
        if key.endswith(("cls_logits.weight", "cls_score.weight")):
            nn.init.normal_(parameter, std=0.1 if name in SSD else 0.5)
        elif name == "ssd300_vgg16" and key.startswith("head.classification_head"):
            nn.init.normal_(parameter, std=0.003)
        elif parameter.ndim == 4 and (name in SSD or key.startswith("backbone")):
            nn.init.kaiming_normal_(parameter)
    images = torch.randn(3, 3, side, side)
    if name not in SSD:
        with torch.no_grad():
            for last, one in zip(theirs.backbone.fpn.layer_blocks, theirs.backbone(images).values(), strict=False):
                last[0].weight /= one.std()
    model = vl.create_backbone(f"torchvision/{name}", CLASSES, False, image_size=side).eval()
    model.load_state_dict(theirs.state_dict())
    return model, theirs, images


def in_pixels(side: int) -> list[dict[str, Tensor]]:
    """Targets as torchvision takes them: the background is class 0."""
    return [{"boxes": one[one[:, 0] >= 0, 1:] * side, "labels": one[one[:, 0] >= 0, 0].long() + 1} for one in some_targets()]


def same_boxes(found: Tensor, wanted: list[dict[str, Tensor]], side: int) -> None:
    for rows, one in zip(detections(found, CLASSES), wanted, strict=True):
        rows = rows[rows[:, 0] >= 0]
        count = min(10, len(rows), len(one["scores"]))
        assert count > 3
        torch.testing.assert_close(rows[:count, 1], one["scores"][:count], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rows[:count, 0].long(), one["labels"][:count] - 1)
        torch.testing.assert_close(rows[:count, 2:] * side, one["boxes"][:count], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", slow_but(SSD))
def test_ssd(name: str) -> None:
    side = SSD[name]
    model, theirs, images = both(name, side)
    theirs.nms_thresh = 0.45
    with torch.no_grad():
        maps = list(theirs.backbone(images).values())
        head, anchors = theirs.head(maps), theirs.anchor_generator(ImageList(images, [(side, side)] * 3), maps)
        same_boxes(model(images), theirs.postprocess_detections(head, anchors, [(side, side)] * 3), side)
        targets = in_pixels(side)
        matched = [
            theirs.proposal_matcher(torchvision.ops.box_iou(one["boxes"], own)) if len(one["boxes"]) else torch.full((len(own),), -1)
            for one, own in zip(targets, anchors, strict=True)
        ]
        wanted = sum(theirs.compute_loss(targets, head, anchors, matched).values())
    loss = detection_loss(model(images), some_targets(), CLASSES)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.slow
def test_the_anchors_of_ssd_are_where_the_maps_of_the_images_are() -> None:
    """At 300 pixels torchvision's, which count on them; at others in the middle of their share of the image."""
    usual = vl.create_backbone("torchvision/ssd300_vgg16", 2, False)
    assert usual.backbone_info.preprocessing.image_size == 300  # type: ignore[union-attr]
    assert usual.anchors.steps == [8, 16, 32, 64, 100, 300]  # type: ignore[union-attr]
    with torch.no_grad():
        found = vl.create_backbone("torchvision/ssd300_vgg16", 2, False, image_size=512)(torch.zeros(1, 3, 512, 512))
    middles = (found[0, :, :2] + found[0, :, 2:4]) / 2
    torch.testing.assert_close(middles.mean(0), torch.tensor([0.5, 0.5]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", slow_but(TWO_STAGES))
def test_faster_rcnn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same proposals; only that torchvision's puts the objects themselves among them is left out."""
    side = 128
    model, theirs, images = both(name, side)
    theirs.rpn._pre_nms_top_n = {"training": CANDIDATES, "testing": CANDIDATES}
    theirs.rpn._post_nms_top_n = {"training": PROPOSALS, "testing": PROPOSALS}
    theirs.roi_heads.score_thresh = 0.01
    monkeypatch.setattr(theirs.roi_heads, "add_gt_proposals", lambda proposals, boxes: proposals)
    batch, sizes = ImageList(images, [(side, side)] * 3), [(side, side)] * 3
    with torch.no_grad():
        maps = theirs.backbone(images)
        found = model(images)
        proposals, _ = theirs.rpn(batch, maps)
        boxes, _ = theirs.roi_heads(maps, proposals, sizes)
        same_boxes(found, boxes, side)
        assert Said.of(found, CLASSES).there.sum(1).tolist() == [len(one) for one in proposals]  # type: ignore[union-attr]
        theirs.rpn.train()
        theirs.roi_heads.train()
        for module in theirs.roi_heads.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(0)
        proposals, first = theirs.rpn(batch, maps, in_pixels(side))
        _, second = theirs.roi_heads(maps, proposals, sizes, in_pixels(side))
    loss = detection_loss(model(images), some_targets(), CLASSES, seed=0)
    torch.testing.assert_close(loss, sum((first | second).values()), rtol=1e-4, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, list(model.parameters())))


def test_the_loss_of_an_evaluation_is_the_same_each_time_and_draws_nothing() -> None:
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", CLASSES, False, decoder="faster_rcnn", image_size=128).eval()
    with torch.no_grad():
        found = model(torch.randn(3, 3, 128, 128))
    state = torch.get_rng_state()
    assert detection_loss(found, some_targets(), CLASSES, seed=0) == detection_loss(found, some_targets(), CLASSES, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("classes", [1, 2, 20])
def test_anchors_are_packed_and_unpacked(classes: int) -> None:
    said = torch.randn(2, 101, OF_ANCHOR)
    rows = packed(said, 6 + 5 * classes)
    assert rows.shape[2] == 6 + 5 * classes
    assert torch.equal(unpacked(rows)[:, :101], said)
    assert not unpacked(rows)[:, 101:].any()


def test_an_output_says_which_detectors_it_is() -> None:
    for classes in range(1, 500):
        columns = [8 + classes, 9 + classes, 13 + classes, 6 + 5 * classes, 790 + 5 * classes]
        assert [kind_of(one, classes) for one in columns] == ["retinanet", "fcos", "ssd", "faster_rcnn", "mask_rcnn"]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("decoder", "side"),
    [("ssd", 16), ("ssd", 64), ("ssdlite", 16), ("ssdlite", 64), ("faster_rcnn", 64), ("mask_rcnn", 64)],
)
def test_images_without_objects_one_class_and_a_batch_of_one(decoder: str, side: int, bf16: bool) -> None:
    """Every gradient is a number, where the last maps have a single place too."""
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", 1, False, decoder=decoder, image_size=side).train()
    freeze_statistics(model)
    images = torch.randn(1, 3, side, side).to(memory_format=torch.channels_last)
    for targets in (torch.empty(1, 0, 5), torch.tensor([[[0, 0.1, 0.2, 0.6, 0.9], [-1, 0, 0, 0, 0]]])):
        if decoder == "mask_rcnn":
            targets = torch.nn.functional.pad(targets, (0, OF_TRUE), value=float(side))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = detection_loss(model(images), targets, 1)
        assert loss.isfinite()
        loss.backward()
        new = [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone")]
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in new)


def test_where_nothing_is_proposed() -> None:
    """An image with no proposals trains what proposes, and none of its boxes is found."""
    torch.manual_seed(0)
    model: Any = vl.create_backbone("timm/test_resnet", CLASSES, False, decoder="faster_rcnn", image_size=64).eval()
    model.rpn.score_thresh = 1.1
    found = model(torch.randn(3, 3, 64, 64))
    assert (detections(found.detach(), CLASSES)[..., 0] == -1).all()
    loss = detection_loss(found, some_targets(), CLASSES)
    assert loss > 0
    loss.backward()
    assert model.rpn.head.cls_logits.weight.grad.any()

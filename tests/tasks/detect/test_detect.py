"""What is made of a detector's output, against torchvision's own detectors and pycocotools."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from placed import some_targets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from quickly import quickly
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList

import visionlora as vl
from visionlora import Images, UserError
from visionlora.tasks.detect.alignment import same_rows
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.detect.draws import by_class, mean_precision
from visionlora.tasks.detect.layout import detections
from visionlora.tasks.detect.losses import detection_loss
from visionlora.tasks.detect.matching import best_threshold, matched
from visionlora.tasks.detect.outcome import DetectOutcome
from visionlora.tasks.detect.targets import padded
from visionlora.tasks.detect.task import Detect

SIDE, CLASSES = 128, 3
DETECTORS = {"fcos": FCOS, "retinanet": RetinaNet}


def ours(decoder: str) -> nn.Module:
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", CLASSES, False, decoder=decoder, image_size=SIDE).eval()
    for name, parameter in model.named_parameters():  # so that there are boxes of all scores
        if name.endswith(("cls_logits.weight", "bbox_reg.0.weight", "bbox_ctrness.weight")):
            nn.init.normal_(parameter, std=0.2)
    return model


def theirs(model: Any, decoder: str) -> Any:
    """torchvision's detector with the same anchors and head; only its losses and its choice of boxes are used."""
    body = nn.Identity()
    body.out_channels = model.head.classification_head.conv[0][0].in_channels if decoder == "retinanet" else 96  # type: ignore[assignment]
    return DETECTORS[decoder](body, CLASSES, anchor_generator=model.anchors, head=model.head, score_thresh=0.01, topk_candidates=1000)


def raw(model: Any, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
    pyramid = model.neck(model.backbone(images))
    anchors = model.anchors(ImageList(images, [(SIDE, SIDE)] * len(images)), pyramid)
    return model.head(pyramid), anchors, [one.shape[2] * one.shape[3] for one in pyramid]


def test_boxes_that_have_lost_their_area_still_learn() -> None:
    """A rectifier alone would have no gradient there, and mAP would stay 0."""
    model: Any = ours("fcos")
    last = model.head.regression_head.bbox_reg[0]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -20.0)
    detection_loss(model(torch.randn(3, 3, SIDE, SIDE)), some_targets(), CLASSES).backward()
    assert (last.bias.grad < 0).all()  # the sides move outwards


@pytest.mark.parametrize("decoder", DETECTORS)
def test_the_loss_is_torchvisions(decoder: str) -> None:
    model, targets = ours(decoder), some_targets()
    images = torch.randn(3, 3, SIDE, SIDE)
    found, anchors, places = raw(model, images)
    own = [{"boxes": one[one[:, 0] >= 0, 1:] * SIDE, "labels": one[one[:, 0] >= 0, 0].long()} for one in targets]
    arguments = (own, found, anchors) if decoder == "retinanet" else (own, found, anchors, places)
    wanted = torch.stack(list(theirs(model, decoder).compute_loss(*arguments).values())).sum()
    loss = detection_loss(model(images), targets, CLASSES)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(loss, list(model.parameters()))  # an error where one has no part in it
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("decoder", DETECTORS)
@torch.no_grad()
def test_the_boxes_are_torchvisions(decoder: str) -> None:
    model = ours(decoder)
    images = torch.randn(2, 3, SIDE, SIDE)
    found, anchors, places = raw(model, images)
    each = len(anchors[0]) // sum(places)
    counts = [each * place for place in places]
    levels = {key: list(value.split(counts, dim=1)) for key, value in found.items()}
    reference = theirs(model, decoder)
    wanted = reference.postprocess_detections(levels, [list(one.split(counts)) for one in anchors], [(SIDE, SIDE)] * 2)
    for rows, one in zip(detections(model(images), CLASSES), wanted, strict=True):
        rows = rows[rows[:, 0] >= 0]
        # theirs takes candidates from each map, ours from all; the likeliest are the same
        count = min(20, len(rows), len(one["scores"]))
        torch.testing.assert_close(rows[:count, 1], one["scores"][:count], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rows[:count, 2:] * SIDE, one["boxes"][:count], atol=1e-2, rtol=1e-3)


def test_average_precision_is_pycocotools() -> None:
    random = np.random.default_rng(0)
    task = Detect(["a", "b", "c"])
    true, found = [], []
    for _ in range(30):
        corners = random.uniform(0, 0.6, (random.integers(0, 5), 2))
        boxes = np.hstack([corners, corners + random.uniform(0.1, 0.4, corners.shape)])
        kinds = random.integers(0, 3, (len(boxes), 1))
        true.append(torch.tensor(np.hstack([kinds, boxes])).float().reshape(-1, 5))
        noisy = boxes + random.normal(0, 0.02, boxes.shape)
        noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 0.01)
        rows = np.hstack([kinds, random.uniform(0.1, 1, (len(boxes), 1)), noisy])
        rows = np.vstack([rows, [[random.integers(0, 3), random.uniform(0.1, 0.6), 0.1, 0.1, 0.3, 0.3]]])
        padded_rows = np.zeros((100, 6))
        padded_rows[:, 0] = -1
        padded_rows[: len(rows)] = rows
        found.append(torch.tensor(padded_rows).float())
    metric = task.metrics()["map"]
    metric.update(torch.stack(found[:16]), padded(true[:16]))
    metric.update(torch.stack(found[16:]), padded(true[16:]))
    ours_ = {key: float(value) for key, value in metric.compute().items()}
    images = [{"id": i, "width": 1000, "height": 1000} for i in range(30)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i in range(30):
        for kind, a, b, c, d in (true[i] * torch.tensor([1, *[1000] * 4])).tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(kind),
                    "bbox": [a, b, c - a, d - b],
                    "area": (c - a) * (d - b),
                    "iscrowd": 0,
                }
            )
        for kind, score, a, b, c, d in found[i].tolist():
            if kind >= 0:
                results.append(
                    {"image_id": i, "category_id": int(kind), "score": score, "bbox": [1000 * a, 1000 * b, 1000 * (c - a), 1000 * (d - b)]}
                )
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": str(i)} for i in range(3)], "info": {}}
    coco.createIndex()
    reference = COCOeval(coco, coco.loadRes(results), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert ours_["map"] == pytest.approx(reference.stats[0], abs=1e-4)
    assert ours_["map50"] == pytest.approx(reference.stats[1], abs=1e-4)
    assert mean_precision(by_class(torch.stack(found), padded(true)), np.ones(30)) == pytest.approx(reference.stats[0], abs=1e-6)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(-1, 6)


def test_boxes_are_matched_likeliest_first() -> None:
    true = torch.tensor([[0, 0.0, 0.0, 0.5, 0.5], [1, 0.5, 0.5, 1.0, 1.0]])
    found = rows((0, 0.9, 0.0, 0.0, 0.5, 0.5), (0, 0.8, 0.0, 0.0, 0.5, 0.45), (0, 0.7, 0.5, 0.5, 1, 1), (-1, 0, 0, 0, 0, 0))
    one = matched(found, true)
    assert one.hits.tolist() == [True, False, False]  # the second is the same object again, the third of another class
    assert (one.objects, one.missed) == (2, [1])
    assert best_threshold([one], 0.3) == pytest.approx(0.9)
    assert best_threshold([matched(found[:0], true)], 0.3) == 0.3
    found[0, 1] = 0.45678
    least = best_threshold([matched(found[:1], true)], 0.3)
    assert least == 0.456  # not 0.457, which the box does not have
    assert matched(found, true, least).hits.any()


def test_predictions_are_in_the_pixels_of_the_image() -> None:
    task = Detect(["a", "b"])
    task.options.threshold = 0.5
    outputs = torch.zeros(1, 100, 6)
    outputs[..., 0] = -1
    outputs[0, 0] = torch.tensor([1, 0.9, 0.25, 0.1, 0.5, 0.9])  # the lower part is beyond an image that is wider than high
    outputs[0, 1] = torch.tensor([0, 0.4, 0.0, 0.0, 0.2, 0.2])
    (found,) = task.predict_placed(["x.jpg"], outputs, 1, [(400, 200)], SIDE)
    assert found.as_json() == [{"label": "b", "score": 0.9, "box": [100.0, 40.0, 200.0, 200.0]}]
    assert found.brief() == "1 b"


def test_outcome() -> None:
    task = Detect(["a", "b"])
    true = padded([torch.tensor([[0, 0.1, 0.1, 0.5, 0.5]]), torch.tensor([[1, 0.2, 0.2, 0.9, 0.9]])])
    found = torch.zeros(2, 100, 6)
    found[..., 0] = -1
    found[0, 0] = torch.tensor([0, 0.9, 0.1, 0.1, 0.5, 0.5])
    images = Images.of_arrays(np.zeros((2, 64, 64, 3), np.uint8), [Boxes((), ())] * 2)
    outcome = DetectOutcome(task, "test", found, true, images)
    half, bounds = pytest.approx(0.5), {"test/map_low": pytest.approx(0.0), "test/map_high": pytest.approx(1.0)}
    assert outcome.metrics() == {"test/map": half, "test/map50": half, **bounds, "test/unreadable": 0}
    assert outcome.p_against(outcome) == 1.0
    assert outcome.report() == {"a": {"map": 1.0, "map50": 1.0, "objects": 1}, "b": {"map": 0.0, "map50": 0.0, "objects": 1}}
    assert outcome.row(1) == {"objects": 1, "found": 0, "missed": 1, "false": 0}
    assert outcome.most_wrong(5) == [1]


def test_targets_that_are_none() -> None:
    targets = Detect(["a"]).targets()
    images = torch.zeros(1, 3, 8, 8)
    for wrong in ([[3, 0.1, 0.1, 0.2, 0.2]], [[0, 0.5, 0.1, 0.2, 0.2]], [[0, 1, 1, 90, 90]]):
        with pytest.raises(UserError, match="1 boxes of a train batch are none"):
            targets.of((images, torch.tensor([wrong])), "train")
    with pytest.raises(UserError, match=r"they must be \(1, objects, 5\)"):
        targets.of((images, torch.zeros(1, 5)), "train")
    with pytest.raises(UserError, match="no detector's of 1 classes"):
        targets.fit(torch.zeros(1, 10), "train")


FAMILIES = ("test_resnet", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224")
DIFFERENT = [
    ("tf_efficientnet_lite0", "fcos"),  # the default
    ("test_resnet", "ssd"),
    ("test_resnet", "mask_rcnn"),  # two stages, and masks
    ("swin_tiny_patch4_window7_224", "retinanet"),
]
"""These have least in common."""


@pytest.mark.parametrize(("name", "decoder"), quickly(product(FAMILIES, Detect.decoders), DIFFERENT, names=2))
def test_detectors_over_families(name: str, decoder: str) -> None:
    """Identical at the start, gradients everywhere (the audit), merged exactly."""
    side = 224 if "swin" in name else 64
    model = vl.create_backbone(f"timm/{name}", CLASSES, False, decoder=decoder, image_size=side).eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        before = model(images)
    report = vl.inject(model, vl.LoraConfig(r=2))
    assert report.layers
    assert not any(layer.name.startswith(("neck", "head", "rpn", "roi_heads")) for layer in report.layers)
    with torch.no_grad():
        size = max(1.0, float(before.abs().max())) if decoder == "mask_rcnn" else 1.0  # logits of masks at random are large
        torch.testing.assert_close(model(images), before, atol=1e-5 * size, rtol=1e-4)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                nn.init.normal_(parameter, std=0.02)
        changed = model(images)
        assert not torch.allclose(changed, before, atol=1e-5)
        vl.merge(model)
        found, wanted = same_rows(model(images), changed, CLASSES)
        torch.testing.assert_close(found, wanted, atol=1e-3 * size, rtol=1e-3)

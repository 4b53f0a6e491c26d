"""Mask R-CNN: masks and their loss against torchvision's code on the same boxes, masks as columns, in views, in figures and in files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import placed
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

import visionlora as vl
from visionlora import Images, UserError
from visionlora.backbone.info import BackboneSpec, Preprocessing
from visionlora.backbone.placed.two_stage_masks import LAST, LOOKED_AT, SIDE
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.sources.load import load_source
from visionlora.tasks.detect import placed_masks
from visionlora.tasks.detect.layout import COLUMNS, KEPT, detections
from visionlora.tasks.detect.losses import UNITS, detection_loss
from visionlora.tasks.detect.mask_losses import mask_losses
from visionlora.tasks.detect.masks import OF_FOUND, OF_TRUE, columns_of_found, columns_of_true, pasted, true_masks
from visionlora.tasks.detect.outcome import DetectOutcome
from visionlora.tasks.detect.said import Said
from visionlora.tasks.detect.targets import padded
from visionlora.tasks.detect.task import Detect
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.registry import kind_of

CLASSES, VIEW = 3, 128
PARTS = {"train": 12, "val": 4, "test": 4}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    found: Any = vl.create_backbone("timm/test_resnet", CLASSES, False, decoder="mask_rcnn", image_size=VIEW).eval()
    nn.init.normal_(found.roi_heads.box_predictor.cls_score.weight, std=0.5)  # so that there are boxes of all scores
    nn.init.normal_(found.roi_heads.mask_predictor.mask_fcn_logits.weight, std=1.0)
    return found


def torchvisions(model: Any) -> Any:
    """torchvision's heads with the same weights: a mask for each class, which are all the same."""
    heads: Any = copy.deepcopy(model.roi_heads)
    last = heads.mask_predictor.mask_fcn_logits
    wide = nn.Conv2d(last.in_channels, CLASSES + 1, 1)
    assert wide.bias is not None
    wide.weight.data, wide.bias.data = last.weight.data.repeat(CLASSES + 1, 1, 1, 1), last.bias.data.repeat(CLASSES + 1)
    heads.mask_predictor.mask_fcn_logits = wide
    heads.score_thresh = 0.01
    return heads


@torch.no_grad()
def test_the_masks_are_torchvisions(model: Any) -> None:
    """Of the boxes that torchvision finds, as numbers and as it pastes them."""
    images = torch.randn(2, 3, VIEW, VIEW)
    said = Said.of(model(images), CLASSES)
    assert said.masked is not None
    assert said.masked.sum(1).tolist() == [LOOKED_AT[1]] * 2
    maps = {str(place): one for place, one in enumerate(model.maps(images)[:-1])}
    proposals = [one[there] * VIEW for one, there in zip(said.anchors, said.there, strict=True)]  # type: ignore[arg-type]
    wanted, _ = torchvisions(model)(maps, proposals, [(VIEW, VIEW)] * 2)
    compared = 0
    for rows, one in zip(detections(model(images), CLASSES), wanted, strict=True):
        there = min(10, len(one["scores"]))
        torch.testing.assert_close(rows[:there, 1], one["scores"][:there], atol=1e-5, rtol=1e-4)
        for row, box, mask in zip(rows[:there], one["boxes"], one["masks"], strict=False):
            lies_in = row[COLUMNS : COLUMNS + 4] * VIEW
            if not torch.allclose(lies_in, box, atol=1e-2):  # another class than the likeliest of its proposal
                continue
            steps = columns_of_found(mask.flatten(1), lies_in[None])
            assert ((steps[:, 4:].long() - row[COLUMNS + 4 :].long()).abs() % 65535 % 255 <= 1).all()
            found = pasted(row[None, COLUMNS:], VIEW, (VIEW, VIEW))[0]
            theirs = paste_masks_in_image(mask[None], box[None], (VIEW, VIEW))[0, 0] > 0.5
            assert (found != theirs).float().mean() < 2e-3
            compared += bool(theirs.any())
    assert compared > 5


def with_masks(boxes: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Objects in these boxes ``(n, 4)`` of pixels, with random masks: targets ``(n, 5 + OF_TRUE)`` and masks ``(n, VIEW, VIEW)``."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.zeros(len(boxes), VIEW, VIEW, dtype=torch.uint8)
    for place, (left, top, right, bottom) in enumerate(boxes.long().tolist()):
        masks[place, top:bottom, left:right] = (torch.rand(bottom - top, right - left, generator=random) < 0.7).byte()
    kinds = torch.randint(CLASSES, (len(boxes), 1), generator=random).float()
    return torch.cat([kinds, boxes / VIEW, columns_of_true(masks, boxes)], dim=1), masks


def test_the_loss_is_torchvisions(model: Any) -> None:
    images = torch.randn(2, 3, VIEW, VIEW)
    outputs = model(images)
    said = Said.of(outputs, CLASSES)
    lie_in = [one[masked].detach() * VIEW for one, masked in zip(said.mask_boxes(), said.masked, strict=True)]  # type: ignore[arg-type]
    sides = [(one[:, 2:] - one[:, :2]) for one in lie_in]
    chosen = [one[((side > 6) & (side < 50)).all(1)][:3].round() for one, side in zip(lie_in, sides, strict=True)]
    assert all(len(one) == 3 for one in chosen)
    rows, masks = zip(*(with_masks(one, place) for place, one in enumerate(chosen)), strict=True)
    heads = torchvisions(model).train()
    heads.add_gt_proposals = lambda proposals, boxes: proposals
    theirs = [{"boxes": boxes, "labels": one[:, 0].long() + 1, "masks": mask} for boxes, one, mask in zip(chosen, rows, masks, strict=True)]
    maps = {str(place): one for place, one in enumerate(model.maps(images)[:-1])}
    _, wanted = heads(maps, lie_in, [(VIEW, VIEW)] * 2, theirs)
    targets = padded(list(rows))
    torch.testing.assert_close(mask_losses(said, targets, UNITS)["mask"], wanted["loss_mask"], rtol=1e-4, atol=1e-5)
    loss = detection_loss(outputs, targets, CLASSES)
    gradients = torch.autograd.grad(loss, list(model.parameters()))  # an error where one has no part in it
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for name, gradient in zip(dict(model.named_parameters()), gradients, strict=True) if "mask_head" in name)


@pytest.mark.parametrize("count", [0, 1])
def test_images_without_objects_train_the_masks_of_nothing(model: Any, count: int) -> None:
    targets = padded([with_masks(torch.tensor([[120.0, 120, 128, 128]] * count).reshape(-1, 4))[0]])
    loss = detection_loss(model(torch.randn(1, 3, VIEW, VIEW)), targets, CLASSES)
    assert loss.isfinite()
    with pytest.raises(UserError, match="Mask R-CNN learns the mask of every object"):
        detection_loss(model(torch.randn(1, 3, VIEW, VIEW)), torch.zeros(1, 1, 5), CLASSES)


def test_columns_are_exact_where_a_trainer_computes_in_bfloat16() -> None:
    """Metrics are updated within the trainer's autocast."""
    chances, boxes = torch.rand(5, SIDE**2), torch.tensor([[0.1, 0.2, 0.6, 0.9]] * 5)
    masks = torch.randint(0, 2, (5, VIEW, VIEW), dtype=torch.uint8)
    found, true = columns_of_found(chances, boxes), columns_of_true(masks, boxes * VIEW)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(columns_of_found(chances, boxes), found)
        assert torch.equal(columns_of_true(masks, boxes * VIEW), true)
        assert torch.equal(pasted(found, VIEW, (VIEW, VIEW)), pasted(columns_of_found(chances, boxes), VIEW, (VIEW, VIEW)))


def test_masks_are_columns_and_masks_again() -> None:
    boxes = torch.tensor([[3.0, 4, 59, 50], [10.2, 0, 11.1, 128], [0, 0, 128, 128], [127.5, 127.5, 128, 128]])
    columns, masks = with_masks(boxes)
    found = true_masks(columns[:, 5:], columns[:, 1:5], VIEW)
    assert torch.equal(found[0], masks[0] > 0)  # up to 56 pixels a side
    assert torch.equal(found[3], masks[3] > 0)
    disc = (torch.cartesian_prod(torch.arange(128), torch.arange(128)) - 64).square().sum(1).view(1, 128, 128) < 60**2
    whole = columns_of_true(disc.byte(), boxes[2:3])
    again = true_masks(whole, boxes[2:3] / VIEW, VIEW)
    assert float((again & disc).sum() / (again | disc).sum()) > 0.97
    assert torch.equal(whole.bfloat16().float(), whole)
    chances = torch.rand(5, SIDE**2)
    columns = columns_of_found(chances, torch.tensor([[0.0, 0, SIDE + 2, SIDE + 2]] * 5) / 100)
    assert columns.shape == (5, OF_FOUND)
    assert pasted(columns[:0], 100, (50, 60)).shape == (0, 50, 60)
    assert (pasted(columns, 100, (50, 60)).sum((1, 2)) > 100).all()


WRITERS = {"coco": placed.write_coco, "yolo": placed.write_yolo_polygons}


def task_of(data: ImageData) -> PlacedTask:
    """Its task, of which is known that labels lie in the image."""
    assert isinstance(data.task, PlacedTask)
    return data.task


@pytest.mark.parametrize("most", [2**26, 2000])
@pytest.mark.parametrize("name", WRITERS)
def test_masks_move_with_their_images(name: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mask of a view covers is of the colour of its class, all of it is covered; also where masks are made smaller first."""
    monkeypatch.setattr(placed_masks, "MOST", most)
    root = WRITERS[name](tmp_path, PARTS)
    data = ImageData(DataConfig(name, str(root), batch_size=4, num_workers=0, crop_scale=None, hflip=0.5), task="detect")
    task_of(data).meet(BackboneSpec("timm", "test_resnet", 2, False, decoder="mask_rcnn"))
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    looked = lacking = whole = 0
    for loader in (data.train_dataloader(), data.eval_dataloader("test")):
        for images, targets in loader:
            assert targets.shape[2] == 5 + OF_TRUE
            for image, objects in zip(images, targets, strict=True):
                own = objects[objects[:, 0] >= 0]
                masks = true_masks(own[:, 5:], own[:, 1:5], 64)
                for kind, mask in zip(own[:, 0].tolist(), masks, strict=True):
                    colour = image[:2, mask].float().mean(1)
                    looked += 1
                    assert int(colour.argmax()) == placed.NAMES.index(data.classes[int(kind)])
                    assert colour.max() > 170  # at borders, colours are mixed
                coloured = (image[:2].float().amax(0) - image[2].float()) > 150
                lacking, whole = lacking + int((coloured & ~masks.any(0)).sum()), whole + int(coloured.sum())
    assert looked > 20
    assert lacking < (0.1 if most > 2000 else 0.2) * whole


def test_digits_have_masks() -> None:
    boxes = load_source(DataConfig("digits"), kind_of("detect")).parts["test"].labels[:5]
    masks = load_source(DataConfig("digits"), kind_of("segment")).parts["test"].labels[:5]
    for one, mask in zip(boxes, masks, strict=True):
        each = placed_masks.masks_in(one, (96, 96)).as_subclass(Tensor)
        painted = sum(layer.int() * (kind + 1) for layer, kind in zip(each, one.classes, strict=True))
        assert np.array_equal(painted, mask.read())


def test_data_without_masks_is_refused(tmp_path: Path) -> None:
    spec = BackboneSpec("torchvision", "maskrcnn_resnet50_fpn", 2, False)
    data = ImageData(DataConfig("voc", str(placed.write_voc(tmp_path / "a", PARTS)), crop_scale=None), task="detect")
    with pytest.raises(UserError, match=r"Mask R-CNN needs the mask of every object, and 12 of 12 training images have objects with boxes"):
        task_of(data).meet(spec)
    file = placed.write_coco(tmp_path / "b", PARTS) / "annotations/instances_test.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    file.write_text(json.dumps(content))
    data = ImageData(DataConfig("coco", str(tmp_path / "b"), crop_scale=None, num_workers=0), task="detect")
    task_of(data).meet(spec)
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    assert sum(len(images) for images, _ in data.test_dataloader()) == PARTS["test"] - 1
    assert list(data.unreadable.values()) == ["it has objects without a mask, which Mask R-CNN needs"]


def some_found() -> tuple[Tensor, Tensor]:
    """Detections and objects of two images of 64 pixels: a mask that is right, and one that covers half of its object."""
    boxes = torch.tensor([[10.0, 10, 40, 40], [20.0, 20, 50, 60]])
    full, half = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    half[:, SIDE // 2 :] = 0
    found = torch.zeros(2, KEPT, COLUMNS + OF_FOUND)
    found[..., 0] = -1
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    for place, (box, chances) in enumerate(zip(boxes, (full, half), strict=True)):
        row = torch.cat([torch.tensor([float(place), 0.9]), box / 64])
        found[place, 0] = torch.cat([row, columns_of_found(chances.view(1, -1), box[None] / 64)[0]])
        masks[place, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 1
    columns = columns_of_true(masks, boxes)
    return found, padded([torch.cat([torch.tensor([float(place)]), boxes[place] / 64, columns[place]])[None] for place in range(2)])


def test_figures_and_plots_of_masks() -> None:
    found, true = some_found()
    task = Detect(["a", "b"])
    task.with_masks = True
    metric = task.metrics()["map"]
    metric.update(found, true)
    logged = {key: float(value) for key, value in metric.compute().items()}
    assert logged == pytest.approx(
        {"map": 1.0, "map50": 1.0, "mask_map": 0.5, "mask_map50": 0.5}, abs=0.11
    )  # pasted, a whole box is a bit larger
    images = Images.of_arrays(np.zeros((2, 64, 64, 3), np.uint8), [None] * 2)
    outcome = DetectOutcome(task, "test", found, true, images)
    assert outcome.metrics()["test/mask_map"] == pytest.approx(logged["mask_map"])
    report = outcome.report()
    assert report["a"]["mask_map"] > 0.75
    assert report["b"]["mask_map"] < 0.1
    true[1, 0, 1:5] = torch.tensor([0.8, 0.8, 0.9, 0.9])  # missed
    assert outcome.__class__(task, "test", found, true, images).plots()["most_wrong"] is not None
    outcome.tell()
    found[..., 0] = -1
    assert DetectOutcome(task, "test", found, true, images).metrics()["test/mask_map"] == 0
    DetectOutcome(task, "test", found, true, images).tell()


def test_predictions_have_masks_in_the_pixels_of_the_image(tmp_path: Path) -> None:
    """Written so that ``data=coco`` reads them, and drawn."""
    task = Detect(["a", "b"])
    task.options.threshold = 0.5
    found, _ = some_found()
    Image.new("RGB", (128, 100)).save(tmp_path / "x.png")
    (one, _) = task.predict_placed([str(tmp_path / "x.png"), "y"], found, 1, [(128, 100), (64, 64)], 64)
    _, entry = one.left(tmp_path, "x")
    _, broken = task.unreadable("broken.png", "it is empty").left(tmp_path, "broken")
    name, content = one.summary([broken, entry], one.names)
    assert [image["file_name"] for image in content["images"]] == [str(tmp_path / "x.png")]  # the other would be an image without objects
    (row,) = content["annotations"]
    assert row["segmentation"]["size"] == [100, 128]
    assert row["area"] == pytest.approx(60 * 60, rel=0.08)
    (tmp_path / name).write_text(json.dumps(content))
    (label,) = load_source(DataConfig("coco", str(tmp_path / name)), kind_of("detect")).parts["train"].labels
    assert not label.bare
    with Image.open(tmp_path / "overlays/x.jpg") as image:
        assert np.asarray(image).max() > 100


@pytest.mark.slow
def test_torchvisions_own_with_weights_of_other_classes(tmp_path: Path) -> None:
    """Of a file with a mask a class: all but the last layers is taken, and these masks' mean."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    theirs = get_model("maskrcnn_resnet50_fpn", weights=None, weights_backbone=None, num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    model = vl.create_backbone("torchvision/maskrcnn_resnet50_fpn", CLASSES, True, weights=str(tmp_path / "x.pt"), image_size=64).eval()
    own, state = model.state_dict(), theirs.state_dict()
    other = {key for key, value in state.items() if own[key].shape != value.shape}
    assert {key.rpartition(".")[0] for key in other} == {
        LAST,
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert all(torch.equal(own[key], state[key]) for key in state if key not in other)
    torch.testing.assert_close(own[f"{LAST}.weight"], state[f"{LAST}.weight"][1:].mean(0, keepdim=True))
    assert model(torch.randn(1, 3, 64, 64)).shape[2] == 6 + 5 * CLASSES + SIDE**2

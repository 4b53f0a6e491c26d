"""``data=coco`` with ``task=segment``: the masks are those that pycocotools draws, and every mistake is told with its annotation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import placed
import pytest
from PIL import Image
from pycocotools import mask as reference

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.sources.load import load_source
from visionlora.data.sources.source import Source
from visionlora.tasks.registry import kind_of
from visionlora.tasks.run_lengths import _uncompressed, run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
PARTS = {"train": 6, "val": 3, "test": 3}
HEIGHT, WIDTH = 40, 60


def load(root: Path) -> Source:
    return load_source(DataConfig("coco", str(root)), kind_of("segment"))


def test_masks_of_images(tmp_path: Path) -> None:
    source = load(placed.write_coco(tmp_path, PARTS))
    assert source.classes == ["background", "green", "red"]  # sorted, and none that nothing is of
    for number, (part, count) in enumerate(PARTS.items()):
        for label, (_, mask, _) in zip(source.parts[part].labels, placed.pictures(count, number), strict=True):
            assert np.array_equal(label.read(), np.array([0, 2, 1])[mask])


def lengths(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    found = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = found["counts"].decode()
    return {"size": [HEIGHT, WIDTH], "counts": counts if compressed else _uncompressed(found["counts"])}


def one_image(root: Path, objects: list[dict[str, Any]], names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """A file of one image with these annotations of categories 1, 2, …"""
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "x.png")
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": place, "image_id": 1, "bbox": [0, 0, 5, 5], **one} for place, one in enumerate(objects)],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names, start=1)],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def some_objects() -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """A polygon of two parts, run lengths of both kinds, a small one below all of them, and the masks that pycocotools makes."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    disc = (rows - 20) ** 2 + (columns - 25) ** 2 < 150
    noise = (random.random((HEIGHT, WIDTH)) < 0.5) & (columns > 30)
    polygons = [[2.5, 3.0, 50.0, 6.0, 40.5, 35.0, 8.0, 30.0], [52, 30, 59, 30, 59, 39]]
    triangle = [[20, 18, 26, 18, 23, 24]]
    objects = [
        {"category_id": 2, "segmentation": triangle},
        {"category_id": 3, "segmentation": polygons},
        {"category_id": 1, "segmentation": lengths(disc, True)},
        {"category_id": 2, "segmentation": lengths(noise, False)},
    ]
    drawn = [reference.decode(reference.merge(reference.frPyObjects(one, HEIGHT, WIDTH))) for one in (triangle, polygons)]
    return objects, [*drawn, disc, noise]


def test_polygons_and_run_lengths_are_painted_the_largest_first(tmp_path: Path) -> None:
    objects, masks = some_objects()
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place in sorted(range(len(masks)), key=lambda place: -int(masks[place].sum())):
        wanted[masks[place] > 0] = objects[place]["category_id"]
    source = load(one_image(tmp_path, objects))
    (label,) = source.parts["train"].labels
    assert source.classes == ["background", "a", "b", "c"]
    assert np.array_equal(label.read(), wanted)
    assert (label.read()[19:22, 22:24] == 2).all()  # the triangle, which the disc and the polygons cover


def test_crowds_and_boxes_without_masks_are_ignored_but_where_an_object_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = np.zeros((HEIGHT, WIDTH))
    crowd[:20] = 1
    objects = [
        {"category_id": 1, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]},
        {"category_id": 1, "segmentation": lengths(crowd, False), "iscrowd": 1},
        {"category_id": 2, "segmentation": [], "bbox": [40.2, 30.5, 10, 5]},
    ]
    source = load(one_image(tmp_path, objects))
    found = source.parts["train"].labels[0].read()
    assert (found[:10] == 255).all()
    assert (found[10:30, 10:30] == 1).all()
    assert (found[30:36, 40:51] == 255).all()
    assert found[39, 0] == 0
    said = capsys.readouterr().err
    assert "1 with a box and no segmentation, whose boxes are ignored (first: annotations.json, x.png, object 2)" in said
    assert "1 of crowds (iscrowd), ignored" in said


def test_a_background_of_the_datas_own(tmp_path: Path) -> None:
    objects = [
        {"category_id": 1, "segmentation": [[0, 0, 60, 0, 60, 40, 0, 40]]},
        {"category_id": 2, "segmentation": [[30, 0, 60, 0, 60, 40, 30, 40]]},
        {"category_id": 1, "segmentation": [[40, 10, 50, 10, 50, 20, 40, 20]]},
    ]
    source = load(one_image(tmp_path, objects, ("Background", "a")))
    assert source.classes == ["Background", "a"]
    found = source.parts["train"].labels[0].read()
    assert found.sum() == 30 * 40 - 100


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "annotation 1 has no polygon of three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "annotation 1 has a polygon of 7 numbers, which must be pairs"),
        ([["a", 2, 3, 4, 5, 6]], "annotation 1 has a polygon that is no list of numbers"),
        ([[1, 2, 3, 4, 1e9, 6]], "annotation 1 has a polygon with a corner far from the image"),
        ([[1, 2, 3, 4, float("nan"), 6]], "annotation 1 has a polygon with a corner far from the image"),
        ({"size": [40, 61], "counts": [2440]}, r"annotation 1 has run lengths for an image of \(height, width\) \[40, 61\]"),
        ({"size": [40, 60], "counts": [5, 5]}, "annotation 1 has run lengths that do not add up to the 2,400 pixels"),
        ({"size": [40, 60], "counts": "abc"}, "annotation 1 has run lengths that do not add up to the 2,400 pixels"),
        ({"size": [40, 60]}, "annotation 1 has run lengths without counts"),
    ],
)
def test_a_mistake_is_told_with_its_annotation(segmentation: Any, message: str, tmp_path: Path) -> None:
    objects = [{"category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}, {"category_id": 1, "segmentation": segmentation}]
    with pytest.raises(UserError, match=message):
        load(one_image(tmp_path, objects))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content["annotations"][0].update(category_id=99), "has category 99, which is none of its categories"),
        (lambda content: content["images"][1].update(id=content["images"][0]["id"]), "the image id 7 is there twice"),
        (lambda content: content["images"][1].update(file_name="none.png"), "names 1 image that is not there: none.png"),
        (lambda content: [one.pop("segmentation") for one in content["annotations"]], ""),
    ],
)
def test_what_is_wrong_with_boxes_is_wrong_with_masks(spoil: Callable[[Any], object], message: str, tmp_path: Path) -> None:
    file = placed.write_coco(tmp_path, {"train": 6}) / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message or "annotation 0 has no segmentation, nor has any other; task=detect learns boxes"):
        load(tmp_path)


def test_an_image_of_another_size_than_its_file_says_is_left_out(tmp_path: Path) -> None:
    from visionlora.backbone.info import Preprocessing

    root = placed.write_coco(tmp_path, PARTS)
    Image.new("RGB", (47, 32)).save(root / "train/train0.png")
    data = ImageData(DataConfig("coco", str(root), crop_scale=None, num_workers=0), task="segment")
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    assert sum(len(targets) for _, targets in data.train_dataloader()) == 5
    (why,) = data.unreadable.values()
    assert "instances_train.json, train0.png has 48 × 32 pixels, the image has 47 × 32" in why


def test_run_lengths_of_random_masks_are_read_as_they_are() -> None:
    random = np.random.default_rng(1)
    for share in (0.0, 0.01, 0.5, 1.0):
        mask = random.random((HEIGHT, WIDTH)) < share
        for compressed in (True, False):
            counts = run_lengths(lengths(mask, compressed), (HEIGHT, WIDTH))
            assert np.array_equal(reference.decode({"size": [HEIGHT, WIDTH], "counts": counts}), mask)

"""``data=voc``, ``coco`` and ``yolo``: one data set in three forms is the same data; mistakes are told with their files, faults counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import placed
import pytest
import torch

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.sources.load import load_source
from visionlora.tasks.registry import kind_of

PARTS = {"train": 6, "val": 3, "test": 3}
WRITERS = {"voc": placed.write_voc, "coco": placed.write_coco, "yolo": placed.write_yolo}


def loaded(name: str, root: Path) -> dict[str, list[list[tuple[str, list[int]]]]]:
    """By part, the objects of each image: name of the class, and corners in pixels."""
    source = load_source(DataConfig(name, str(root)), kind_of("detect"))
    found: dict[str, list[list[tuple[str, list[int]]]]] = {}
    for part, images in source.parts.items():
        found[part] = []
        for index, label in enumerate(images.labels):
            width, height = images.open(index, 3).size
            scale = np.array([width, height] * 2)
            boxes = [(np.array(box) * scale).round().astype(int).tolist() for box in label.boxes]
            found[part].append([(source.classes[kind], box) for kind, box in zip(label.classes, boxes, strict=True)])
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_the_same_data(name: str, tmp_path: Path) -> None:
    found = loaded(name, WRITERS[name](tmp_path, PARTS))
    for number, (part, count) in enumerate(PARTS.items()):
        wanted = [[(placed.NAMES[kind], list(box)) for kind, box in objects] for _, _, objects in placed.pictures(count, number)]
        assert found[part] == wanted


def move(root: Path, *pairs: tuple[str, str]) -> Path:
    for old, new in pairs:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)
    return root


def test_other_layouts(tmp_path: Path) -> None:
    yolo = placed.write_yolo(tmp_path / "a", PARTS)
    wanted = loaded("yolo", yolo)
    move(yolo, *((f"{kind}/{part}", f"{'valid' if part == 'val' else part}/{kind}") for kind in ("images", "labels") for part in PARTS))
    assert loaded("yolo", yolo) == wanted  # as Roboflow lays it out
    assert loaded("yolo", yolo / "data.yaml") == wanted  # as Ultralytics is given it
    (yolo / "data.yaml").unlink()
    (yolo / "train/labels/classes.txt").write_text("\n".join(placed.NAMES))  # as LabelImg leaves it
    assert loaded("yolo", yolo) == wanted
    voc = placed.write_voc(tmp_path / "b", {"train": 9})
    together = {name: boxes for part in loaded("voc", voc).values() for name, boxes in enumerate(part)}
    move(voc, ("JPEGImages", "pictures"), ("Annotations", "xml"), ("ImageSets", "lists"))
    assert {name: boxes for part in loaded("voc", voc).values() for name, boxes in enumerate(part)} == together
    data = ImageData(DataConfig("voc", str(voc)), task="detect")
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 6, "val": 1, "test": 2}
    coco = placed.write_coco(tmp_path / "c", {"train": 3})
    file = move(coco, ("annotations/instances_train.json", "train/_annotations.coco.json")) / "train/_annotations.coco.json"
    assert loaded("coco", coco) == loaded("coco", file)


def in_sets(root: Path, described: str) -> Path:
    """YOLO's files with the images in ``images/set1`` to ``set3``, which no word makes parts, and what ``data.yaml`` says of them."""
    placed.write_yolo(root, PARTS)
    for number, part in enumerate(PARTS, start=1):
        move(root, *((f"{kind}/{part}", f"{kind}/set{number}") for kind in ("images", "labels")))
    (root / "data.yaml").write_text(f"names: {list(placed.NAMES)}\n{described}")
    return root


@pytest.mark.parametrize(
    "described",
    [
        "train: images/set1\nval: images/set2\ntest: images/set3\n",
        "path: .\ntrain: ../images/set1\nvalid: [images/set2]\ntest: images/set3\n",  # Roboflow's way, and a list of folders
        "path: /nowhere/else\ntrain: train.txt\nval: ./lists/held_out.txt\ntest: images/set3\n",
    ],
    ids=["folders", "roboflow", "lists"],
)
def test_parts_as_data_yaml_names_them(described: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = loaded("yolo", placed.write_yolo(tmp_path / "a", PARTS))
    root = in_sets(tmp_path / "b", described)
    (tmp_path / "images/set1").mkdir(parents=True)  # of other data, where Roboflow's path would lead to
    if "held_out" in described:
        (root / "lists").mkdir()
        (root / "train.txt").write_text("\n".join(f"./images/set1/{path.name}" for path in sorted((root / "images/set1").iterdir())))
        (root / "lists/held_out.txt").write_text("\n".join(f"images/set2/{path.name}" for path in sorted((root / "images/set2").iterdir())))
    assert loaded("yolo", root) == loaded("yolo", root / "data.yaml") == wanted
    shutil.copytree(root / "images/set3", root / "images/more")
    assert loaded("yolo", root) == wanted
    assert "3 images of no part, left out: images/more/" in capsys.readouterr().err


def test_data_yaml_that_names_other_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = in_sets(tmp_path / "a", "train: images/set1\nval: images/set1\n")  # as coco128.yaml
    assert list(loaded("yolo", root)) == ["train"]
    assert "names the same images for train and val, which is left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="6 images would be of train and of val"):
        loaded("yolo", in_sets(tmp_path / "b", "train: images/set1\nval: [images/set1, images/set2]\n"))
    root = in_sets(tmp_path / "c", "train: list.txt\n")
    (root / "list.txt").write_text("images/set1/gone.png")
    with pytest.raises(UserError, match=r"list\.txt names images/set1/gone\.png, which is not there"):
        loaded("yolo", root)
    elsewhere = placed.write_yolo(tmp_path / "d", PARTS)
    wanted = loaded("yolo", elsewhere)
    (elsewhere / "data.yaml").write_text(f"names: {list(placed.NAMES)}\npath: /nowhere\ntrain: gone/train\nval: gone/val\n")
    assert loaded("yolo", elsewhere) == wanted  # of another machine: the names of the folders say it
    (tmp_path / "e").mkdir()
    (tmp_path / "e/data.yaml").write_text(f"names: {list(placed.NAMES)}\npath: ../d\ntrain: images/train\nval: images/val\n")
    assert loaded("yolo", tmp_path / "e/data.yaml") == wanted  # the description lies elsewhere
    (elsewhere / "data.yaml").write_text(f"names: {list(placed.NAMES)}\npath: {tmp_path / 'e'}\ntrain: images/train\nval: images/val\n")
    assert loaded("yolo", elsewhere / "data.yaml") == wanted  # its path is a folder here too, but of something else


def test_other_json_files_beside_cocos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = placed.write_coco(tmp_path, PARTS)
    wanted = loaded("coco", root)
    (root / "info.json").write_text('{"author": "me"}')
    (root / "annotations/train_ids.json").write_text("[7, 8]")
    assert loaded("coco", root) == wanted
    assert "2 JSON files without COCO's lists, left out: annotations/train_ids.json" in capsys.readouterr().err


def test_faults_are_mended_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = placed.write_voc(tmp_path, PARTS)
    strange = [(0, (20, 10, 5, 30)), (1, (-9, 0, 20, 12)), (0, (4, 4, 4, 9)), (1, (60, 4, 90, 9))]
    (root / "Annotations/train0.xml").write_text(placed.voc_xml(strange, 48, 32))
    (root / "Annotations/train1.xml").write_text(placed.voc_xml([], 32, 48))
    assert loaded("voc", root)["train"][:2] == [[("red", [5, 10, 20, 30]), ("green", [0, 0, 20, 12])], []]
    said = capsys.readouterr().err
    assert "1 with swapped corners, set right (first: train0.png, object 1)" in said
    assert "1 reaching beyond the image, clipped (first: train0.png, object 2)" in said
    assert "2 without area or outside the image, left out (first: train0.png, object 3)" in said
    assert "1 image without objects, which is kept" in said


def unnamed_category(root: Path) -> None:
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 99
    file.write_text(json.dumps(content))


def doubled_id(root: Path) -> None:
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    file.write_text(json.dumps(content))


def changed(key: str, place: int = 0, **values: object) -> Callable[[Path], object]:
    """Changes an entry of a list of COCO's training file, the first one where no place is given."""

    def change(root: Path) -> None:
        file = root / "annotations/instances_train.json"
        content = json.loads(file.read_text())
        content[key][place] |= values
        file.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("coco", unnamed_category, r"instances_train\.json: annotation 0 has category 99, which is none of its categories"),
        ("coco", doubled_id, r"instances_train\.json: the image id 7 is there twice"),
        ("coco", lambda root: (root / "train/train2.png").unlink(), r"names 1 image that is not there: train2\.png"),
        ("coco", lambda root: (root / "annotations/instances_train.json").write_text("{"), "cannot be read as JSON"),
        ("coco", lambda root: (root / "annotations/instances_train.json").write_text("[]"), "is no file of COCO's"),
        ("yolo", lambda root: (root / "labels/train/train0.txt").write_text("7 .5 .5 .1 .1"), r"train0\.txt, line 1: class 7 has no name"),
        (
            "yolo",
            lambda root: (root / "labels/train/train0.txt").write_text("0 .5 .5 .1 .1\n1 .5"),
            r"train0\.txt, line 2: it has 2 numbers",
        ),
        ("yolo", lambda root: (root / "labels/train/train0.txt").write_text("red .5 .5 .1 .1"), "is no row of numbers"),
        ("yolo", lambda root: (root / "labels/train/other.txt").write_text("0 .5 .5 .1 .1"), r"other\.txt has no image of the same name"),
        ("yolo", lambda root: (root / "data.yaml").unlink(), r"neither data\.yaml nor classes\.txt"),
        ("voc", lambda root: (root / "Annotations/train0.xml").write_text("<annotation>"), "cannot be read as XML"),
        (
            "voc",
            lambda root: (root / "ImageSets/Main/train.txt").write_text("train0\nnowhere"),
            "names 1 image that is not there, or without an XML file of the same name: nowhere",
        ),
        ("yolo", lambda root: (root / "labels/train/train0.txt").write_text("inf .5 .5 .1 .1"), "is no row of numbers"),
        (
            "yolo",
            lambda root: (root / "labels/train/train0.txt").write_text("0 .5 .5 .1 .1", "utf-16"),
            "cannot be read: .*UTF-8",
        ),
        ("coco", changed("images", width="x"), r"instances_train\.json, train0\.png: width and height must be numbers of pixels"),
        ("coco", changed("categories", -1, id=9), "the category id 9 is there twice"),
        (
            "voc",
            lambda root: (root / "Annotations/train0.xml").write_text(
                placed.voc_xml([(0, (1, 1, 9, 9))], 48, 32).replace("<xmin>1<", "<xmin>a<")
            ),
            "bndbox/xmin is 'a', and must be a number",
        ),
    ],
)
def test_a_mistake_is_told_with_its_file(name: str, spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path, PARTS)
    spoil(root)
    with pytest.raises(UserError, match=message):
        load_source(DataConfig(name, str(root)), kind_of("detect"))


def test_pascal_vocs_masks_are_no_images(tmp_path: Path) -> None:
    root = placed.write_voc(tmp_path / "own", PARTS)
    wanted = loaded("voc", root)
    for folder in ("SegmentationClass", "SegmentationObject"):
        (root / folder).mkdir()
        shutil.copy(root / "JPEGImages/train0.png", root / folder)
    (root / "ImageSets/Main/val.txt").write_text("")  # an empty list is none
    found = loaded("voc", root)
    assert (found["train"], found["test"]) == (wanted["train"], wanted["test"])
    shutil.copytree(root, tmp_path / "devkit/VOCdevkit/VOC2012", ignore=shutil.ignore_patterns("devkit"))
    assert loaded("voc", tmp_path / "devkit") == found
    shutil.copytree(root, tmp_path / "devkit/VOCdevkit/VOC2007", ignore=shutil.ignore_patterns("devkit"))
    with pytest.raises(UserError, match=r"VOCdevkit/VOC2007, VOCdevkit/VOC2012; name one of them, as data\.root=.*VOC2012\."):
        loaded("voc", tmp_path / "devkit")


def test_annotations_in_one_folder_are_of_every_part(tmp_path: Path) -> None:
    root = placed.write_voc(tmp_path, PARTS)
    wanted = loaded("voc", root)
    for part in PARTS:
        names = [f"{part}{number}.png" for number in range(PARTS[part])]
        move(root, *((f"JPEGImages/{name}", f"images/{part}/{name}") for name in names))
    shutil.rmtree(root / "ImageSets")
    assert loaded("voc", root) == wanted


def test_coco_looks_at_folders_below_the_root_alone(tmp_path: Path) -> None:
    wanted = loaded("coco", placed.write_coco(tmp_path / "data", PARTS))
    root = placed.write_coco(tmp_path / "test/val", PARTS)
    for part in PARTS:  # an image 0.png in every part, so that the folders tell which is meant
        file = root / f"annotations/instances_{part}.json"
        file.write_text(file.read_text().replace(f'"{part}0.png"', '"0.png"').replace(f'"{part}/{part}0.png"', '"0.png"'))
        move(root, (f"{part}/{part}0.png", f"{part}/0.png"))
    assert loaded("coco", root) == wanted


def test_images_with_boxes_drawn_in_are_not_learnt(tmp_path: Path) -> None:
    """``predict`` writes them beside its ``coco.json``, under the names of the images."""
    root = placed.write_coco(tmp_path / "data", {"train": 2})
    wanted = loaded("coco", root)
    found = tmp_path / "found"
    found.mkdir()
    shutil.copy(root / "annotations/instances_train.json", found / "coco.json")
    shutil.copytree(root / "train", found / "overlays")
    for given in (found, found / "coco.json"):
        with pytest.raises(UserError, match=r"not there.*If predict has written it, copy it into the folder of the images"):
            loaded("coco", given)
    shutil.copy(found / "coco.json", root / "train")
    assert loaded("coco", root / "train") == wanted


def test_coco_takes_no_image_for_another(tmp_path: Path) -> None:
    root = placed.write_coco(tmp_path, {"train": 2})
    file = root / "annotations/instances_train.json"
    wanted = loaded("coco", root)
    content = json.loads(file.read_text())
    for number, image in enumerate(content["images"]):
        move(root, (f"train/train{number}.png", f"pictures/cam{number}/0.png"))
        image["file_name"] = f"cam{number}/0.png"
    file.write_text(json.dumps(content))
    assert loaded("coco", root) == wanted
    assert loaded("coco", file) == wanted  # the images are beside the folder of the file
    (root / "pictures/cam1/0.png").unlink()
    with pytest.raises(UserError, match=r"names cam0/0\.png and cam1/0\.png, and there is only .*cam0/0\.png for both"):
        loaded("coco", root)
    move(root, ("pictures/cam0/0.png", "pictures/a/0.png"))
    shutil.copytree(root / "pictures/a", root / "pictures/b")
    changed("images", file_name="0.png")(root)
    with pytest.raises(UserError, match=r"names 0\.png, which may be .*a/0\.png or .*b/0\.png; it must say the folder"):
        loaded("coco", root)


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_boxes_of_an_image_on_its_side_are_told_before_the_training(name: str, tmp_path: Path) -> None:
    from visionlora.backbone.info import Preprocessing

    root = WRITERS[name](tmp_path, PARTS)
    if name == "voc":
        (root / "Annotations/train0.xml").write_text(placed.voc_xml([(0, (1, 1, 9, 9))], 32, 48))
    else:
        changed("images", width=32, height=48)(root)
    data = ImageData(DataConfig(name, str(root), num_workers=0), task="detect")
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3), check=True)
    (why,) = data.unreadable.values()
    assert "its boxes are of an image of 32 × 48 pixels, as if it lay on its side, and it has 48 × 32" in why


def test_yolo_with_key_points_and_a_part_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = placed.write_yolo(tmp_path, PARTS)
    wanted = loaded("yolo", root)
    described = json.loads((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(json.dumps(described | {"kpt_shape": [2, 2]}))
    for file in (root / "labels/train").iterdir():
        file.write_text("\n".join(f"{line} .4 .4 .6 .6" for line in file.read_text().splitlines()))
    assert loaded("yolo", root) == wanted
    shutil.rmtree(root / "labels/val")
    assert set(loaded("yolo", root)) == {"train", "test"}
    assert "3 images of the val part without labels, left out" in capsys.readouterr().err


def test_without_a_folder(tmp_path: Path) -> None:
    for name in WRITERS:
        with pytest.raises(UserError, match="is not there"):
            load_source(DataConfig(name, str(tmp_path / "none")), kind_of("detect"))


def test_other_tasks_and_other_data_are_refused(tmp_path: Path) -> None:
    root = placed.write_voc(tmp_path, PARTS)
    with pytest.raises(UserError, match="task=segment learns masks, and the data has none"):
        ImageData(DataConfig("voc", str(root)), task="segment")
    with pytest.raises(UserError, match=r"data=voc has boxes, of which task=classify learns nothing; write task=detect"):
        ImageData(DataConfig("voc", str(root)))
    with pytest.raises(UserError, match="task=detect learns boxes, and the data has none"):
        ImageData(DataConfig("fake"), task="detect")


@pytest.mark.parametrize("workers", [0, 1])
def test_boxes_move_with_their_images(workers: int, tmp_path: Path) -> None:
    """What a view's box holds is of the colour of its class, whatever has been done to the image."""
    from visionlora.backbone.info import Preprocessing

    root = placed.write_voc(tmp_path, {"train": 12, "test": 3})
    data = ImageData(
        DataConfig("voc", str(root), batch_size=4, num_workers=workers, crop_scale=None, hflip=0.5, val_fraction=0.0), task="detect"
    )
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    for loader in (data.train_dataloader(), data.eval_dataloader("test")):
        for images, targets in loader:
            assert images.shape[1:] == (3, 64, 64)
            for image, objects in zip(images, targets, strict=True):
                for kind, left, top, right, bottom in objects[objects[:, 0] >= 0].tolist():
                    inside = image[:, round(64 * top) + 1 : round(64 * bottom) - 1, round(64 * left) + 1 : round(64 * right) - 1].float()
                    if inside.numel():
                        assert placed.NAMES[int(inside.mean((1, 2))[:2].argmax())] == data.classes[int(kind)]


def test_views_are_the_same_with_workers(tmp_path: Path) -> None:
    from visionlora.backbone.info import Preprocessing

    root = placed.write_voc(tmp_path, {"train": 8, "test": 2})
    found = []
    for workers in (0, 2):
        data = ImageData(DataConfig("voc", str(root), batch_size=4, num_workers=workers, crop_scale=None, val_fraction=0.0), task="detect")
        data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
        found.append([tensor for batch in data.train_dataloader() for tensor in batch])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)

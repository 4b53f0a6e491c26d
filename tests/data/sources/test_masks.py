"""``data=masks``: which masks are of which images, what their numbers mean, and every mistake told with its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import placed
import pytest
import torch
from PIL import Image

from visionlora import UserError
from visionlora.backbone.info import Preprocessing
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.sources.load import load_source
from visionlora.data.sources.source import Source
from visionlora.tasks.registry import kind_of

PARTS = {"train": 6, "val": 3, "test": 3}


def load(root: Path) -> Source:
    return load_source(DataConfig("masks", str(root)), kind_of("segment"))


def test_masks_of_images(tmp_path: Path) -> None:
    source = load(placed.write_masks(tmp_path, PARTS))
    assert source.classes == ["background", "red", "green"]
    for number, (part, count) in enumerate(PARTS.items()):
        for label, (_, mask, _) in zip(source.parts[part].labels, placed.pictures(count, number), strict=True):
            assert np.array_equal(label.read(), mask)


def test_other_layouts(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, {"train": 6, "test": 3})
    wanted = {part: images.names for part, images in load(root).parts.items()}
    for kind in ("images", "masks"):
        for part in ("train", "test"):
            (root / kind).mkdir(exist_ok=True)
            (root / part / kind).rename(root / kind / part)
    for part in ("train", "test"):
        (root / part).rmdir()
    assert {part: [f"{part}/images/{Path(name).name}" for name in images.names] for part, images in load(root).parts.items()} == wanted
    for path in (root / "masks/train").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    shutil.move(root / "images/train", tmp_path / "one/images")
    shutil.move(root / "masks/train", tmp_path / "one/masks")
    data = ImageData(DataConfig("masks", str(tmp_path / "one")), task="segment")  # the rest is split off; no classes.txt
    assert data.classes == ["class0", "class1", "class2"]
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 3, "val": 1, "test": 2}


def test_no_class_neither_trains_nor_counts(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    (root / "classes.txt").write_text("0 void\n1 red\n2 green\n")
    source = load(root)
    assert source.classes == ["red", "green"]
    mask = placed.pictures(6)[0][1]
    assert np.array_equal(source.parts["train"].labels[0].read(), np.where(mask == 0, 255, mask - 1))


def test_black_and_white_masks(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    for path in root.rglob("masks/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    (root / "classes.txt").unlink()
    source = load(root)
    assert source.classes == ["background", "foreground"]
    assert np.array_equal(source.parts["train"].labels[0].read(), placed.pictures(6)[0][1] > 0)
    assert ImageData(DataConfig("masks", str(root)), task="segment").task.options.values == [0, 255]


COLOURS = np.array([(0, 0, 0), (128, 0, 64), (64, 192, 0)], np.uint8)


def write_colours(root: Path, table: str = "name,r,g,b\nbackground,0,0,0\nred,128,0,64\ngreen,64,192,0\n") -> Path:
    """Masks as pictures in colours, half of them with a palette of their own, and ``class_dict.csv``."""
    (root / "classes.txt").unlink()
    (root / "class_dict.csv").write_text(table)
    for number, path in enumerate(sorted(root.rglob("masks/*.png"))):
        picture = Image.fromarray(COLOURS[np.asarray(Image.open(path))])
        (picture.quantize(8) if number % 2 else picture).save(path)
    return root


def test_masks_in_colours(tmp_path: Path) -> None:
    source = load(write_colours(placed.write_masks(tmp_path, PARTS)))
    assert source.classes == ["background", "red", "green"]
    for label, (_, wanted, _) in zip(source.parts["train"].labels, placed.pictures(PARTS["train"]), strict=True):
        assert np.array_equal(label.read(), wanted)
    (tmp_path / "class_dict.csv").write_text("name, r, g, b\nVoid,0,0,0\nred,128,0,64\ngreen,64,192,0\n")
    source = load(tmp_path)
    assert source.classes == ["red", "green"]
    wanted = placed.pictures(PARTS["train"])[0][1]
    assert np.array_equal(source.parts["train"].labels[0].read(), np.where(wanted == 0, 255, wanted - 1))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,r,g,b\nbackground,0,0,0\nred,128,0,64\n", r"mask .*\.png has the colour 64, 192, 0 \(row \d+, column \d+\)"),
        ("name,red,g,b\nbackground,0,0,0\n", r"class_dict\.csv, line 2: the column 'r' is missing"),
        ("name,r,g,b\nbackground,0,0,x\n", r"class_dict\.csv, line 2: invalid literal .*'x'"),
        ("name,r,g,b\nbackground,0,0,0\nred,0,0,0\n", "each name and each colour once"),
        ("name,r,g,b\nbackground,0,0,0\n", "has 1 class; a segmentation needs two"),
    ],
)
def test_a_mistake_in_colours(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(write_colours(placed.write_masks(tmp_path, PARTS), table))


@pytest.mark.parametrize("folders", ["train/imgs train/annotations", "images/train labels/train", "train train_labels", "train trainannot"])
def test_what_folders_may_be_called(folders: str, tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, {"train": 6})
    wanted = [Path(name).name for name in load(root).parts["train"].names]
    images, masks = folders.split()
    (root / "train").rename(root / "old")
    for kind, place in (("images", images), ("masks", masks)):
        (root / place).parent.mkdir(exist_ok=True)
        (root / "old" / kind).rename(root / place)
    found = load(root).parts["train"]
    assert found.names == [f"{images}/{name}" for name in wanted]
    assert np.array_equal(found.labels[0].read(), placed.pictures(6)[0][1])


def in_one_folder(root: Path, images: str, masks: str) -> Path:
    """The training images in ``root/IMAGES``, and their masks in ``root/MASKS``."""
    placed.write_masks(root, {"train": 6})
    (root / "train/images").rename(root / images)
    (root / "train/masks").rename(root / masks)
    return root


def stems(source: Source) -> dict[str, list[str]]:
    return {part: [Path(name).stem for name in images.names] for part, images in source.parts.items()}


def test_pascal_voc_has_lists_and_masks_of_some_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = in_one_folder(tmp_path, "JPEGImages", "SegmentationClass")
    (root / "SegmentationClass/train5.png").unlink()
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("train0\ntrain1")  # as CVAT writes it: no parts
    assert stems(load(root)) == {"train": [f"train{number}" for number in range(5)]}
    assert "1 image without a file in" in capsys.readouterr().err
    (lists / "train.txt").write_text("train0\ntrain3\n")
    (lists / "val.txt").write_text("train2\n")
    assert stems(load(root)) == {"train": ["train0", "train3"], "test": ["train2"]}  # the only part held out
    (lists / "val.txt").write_text("train5\n")
    with pytest.raises(UserError, match=r"val\.txt names 1 image that is not there, or without a mask: train5"):
        load(root)


def test_fast_ai_has_codes_and_a_list_of_validation(tmp_path: Path) -> None:
    root = in_one_folder(tmp_path, "images", "labels")
    for path in (root / "labels").iterdir():
        path.rename(path.with_stem(f"{path.stem}_P"))
    (root / "classes.txt").unlink()
    (root / "codes.txt").write_text("Sky\nCar\nVoid\n")
    (root / "valid.txt").write_text("train4.png\ntrain1.png\n")
    source = load(root)
    assert source.classes == ["Sky", "Car"]
    assert stems(source) == {"train": ["train0", "train2", "train3", "train5"], "test": ["train1", "train4"]}
    (root / "valid.txt").write_text("\n".join(f"train{number}.png" for number in range(6)))
    with pytest.raises(UserError, match="names all images, and none is left for training"):
        load(root)


def test_cvat_names_colours_in_a_labelmap(tmp_path: Path) -> None:
    root = write_colours(placed.write_masks(tmp_path, PARTS))
    (root / "class_dict.csv").unlink()
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:128,0,64::\ngreen:64,192,0::\n")
    source = load(root)
    assert source.classes == ["background", "red", "green"]
    assert np.array_equal(source.parts["train"].labels[0].read(), placed.pictures(6)[0][1])
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground 0 0 0")
    with pytest.raises(UserError, match=r"labelmap\.txt, line 2: .*; it must have lines such as road:128,64,128::"):
        load(root)


def test_lists_name_images_in_folders(tmp_path: Path) -> None:
    root = in_one_folder(tmp_path, "JPEGImages", "SegmentationClass")
    for place in ("JPEGImages", "SegmentationClass"):
        for number in range(6):
            folder = root / place / f"cam{number % 2}"
            folder.mkdir(exist_ok=True)
            (root / place / f"train{number}.png").rename(folder / f"{number // 2} a.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("cam0/0 a\ncam0/1 a.png\n")
    (lists / "test.txt").write_text("cam1/0 a\n")
    names = {part: images.names for part, images in load(root).parts.items()}
    assert names == {"train": ["JPEGImages/cam0/0 a.png", "JPEGImages/cam0/1 a.png"], "test": ["JPEGImages/cam1/0 a.png"]}
    (lists / "test.txt").write_text("0 a\n")
    with pytest.raises(UserError, match=r"names 0 a, and 2 images are called so; it must say their folders"):
        load(root)
    (lists / "test.txt").write_text("cam2/0 a\n")
    with pytest.raises(UserError, match=r"names 1 image that is not there, or without a mask: cam2/0 a"):
        load(root)


def test_black_and_white_masks_go_by_their_colours_or_two_names(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    for path in root.rglob("masks/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    for names in ("background\ncell\nother", "background\nVoid"):
        (root / "classes.txt").write_text(names)
        with pytest.raises(UserError, match="the masks have the values 0 and 255 alone, of which 255 is no class; name two classes"):
            load(root)
    (root / "classes.txt").unlink()
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\ncell,255,255,255\n")
    source = load(root)
    assert source.classes == ["background", "cell"]
    assert np.array_equal(source.parts["train"].labels[0].read(), placed.pictures(6)[0][1] > 0)


def test_masks_of_no_image_are_told_and_twins_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    (root / "train/images/train0.png").unlink()
    assert len(load(root).parts["train"]) == 5
    assert "1 file of no image, left out" in capsys.readouterr().err
    Image.new("RGB", (48, 32)).save(root / "train/images/train1.jpg")
    with pytest.raises(UserError, match=r"train1\.jpg and .*train1\.png have the same name, and one file"):
        load(root)


def test_a_mask_of_another_size_is_told_before_the_training(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    Image.new("L", (47, 32)).save(root / "test/masks/test0.png")
    data = ImageData(DataConfig("masks", str(root), num_workers=0), task="segment")
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3), check=True)
    assert [*data.unreadable] == ["test/images/test0.png"]


def mask(root: Path) -> Path:
    return root / "train/masks/train0.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: mask(root).unlink(), r"1 image of .*images has no file \(\.png, .*\) in .*masks: train0\.png"),
        (lambda root: mask(root).write_bytes(b"no image"), r"the mask .*train0\.png cannot be read"),
        (lambda root: Image.new("L", (48, 32), 7).save(mask(root)), r"train0\.png has the value 7, and the classes are 0 to 2"),
        (lambda root: Image.new("RGB", (48, 32), "red").save(mask(root)), r"train0\.png is a picture in colours"),
        (lambda root: (root / "classes.txt").write_text("red\nred"), "the class 'red' is there twice"),
        (lambda root: (root / "classes.txt").write_text("only"), "has 1 class; a segmentation needs two"),
        (
            lambda root: (root / "classes.txt").write_text("\n".join(map("c{}".format, range(300)))),
            "has 300 classes; a mask has room for 255",
        ),
        (lambda root: shutil.rmtree(root / "train"), "has no folders train/images and train/masks"),
    ],
)
def test_a_mistake_is_told_with_its_file(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    spoil(root)
    with pytest.raises(UserError, match=message):
        load(root)


def test_a_mask_of_another_size_leaves_its_image_out(tmp_path: Path) -> None:
    root = placed.write_masks(tmp_path, PARTS)
    Image.new("L", (47, 32)).save(mask(root))
    data = ImageData(DataConfig("masks", str(root), crop_scale=None, num_workers=0), task="segment")
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    assert sum(len(targets) for _, targets in data.train_dataloader()) == 5
    (why,) = data.unreadable.values()
    assert "has 47 × 32 pixels, the image has 48 × 32" in why


def test_masks_move_with_their_images(tmp_path: Path) -> None:
    """A pixel that the mask says to be red is red, in every view; what is beyond the image has no class and the mean colour."""
    root = placed.write_masks(tmp_path, PARTS)
    data = ImageData(DataConfig("masks", str(root), crop_scale=None, num_workers=0, batch_size=3), task="segment")
    data.prepare_for(Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    for loader in (data.train_dataloader(), data.eval_dataloader("test")):
        for images, masks in loader:
            assert images.shape[2:] == masks.shape[1:] == (64, 64)
            pixels = images.permute(0, 2, 3, 1).float()
            for number, channel in ((1, 0), (2, 1)):
                there = pixels[masks == number]
                assert (there.argmax(1) == channel).float().mean() > 0.9  # but at borders, where colours are mixed
            assert (pixels[masks == 255] == 128).all()
    images, masks = data.on_after_batch_transfer(next(iter(data.eval_dataloader("test"))), 0)
    assert torch.equal(images[(masks == 255)[:, None].expand_as(images)].abs().max() < 0.01, torch.tensor(True))

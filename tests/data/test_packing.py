"""``visionlora.pack``: shards that read back as what was packed, whole or not at all, and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from tasks.tables import coloured

from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

Folders = Callable[..., Path]
PARTS = {"train": {"cat": 7, "dog": 7}, "test": {"cat": 2, "dog": 2}}


def data(name: str, root: Path, task: str = "classify", **keys: object) -> ImageData:
    return ImageData(DataConfig(name, str(root), val_fraction=0.0, **keys), task=task)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def packed(class_folders: Folders, tmp_path: Path) -> tuple[Path, Path]:
    """Class folders, and their shards of four images."""
    root = class_folders(**PARTS)
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={tmp_path / 'shards'}", "images=4")
    assert done.returncode == 0, done.stderr
    assert "18 images (14 of train, 4 of test)" in done.stdout
    return root, tmp_path / "shards"


def test_what_is_read_back_is_what_was_packed(packed: tuple[Path, Path]) -> None:
    folder, shards = data("imagefolder", packed[0]), data("webdataset", packed[1])
    assert shards.classes == folder.classes
    for part, images in folder.parts.items():
        assert shards.parts[part].labels == images.labels
        assert all(np.array_equal(np.asarray(shards.parts[part].open(i, 3)), np.asarray(images.open(i, 3))) for i in range(len(images)))
    assert sorted(json.loads((packed[1] / "shards.json").read_text())["shards"]) == [
        "test/000000.tar", "train/000000.tar", "train/000001.tar", "train/000002.tar", "train/000003.tar",
    ]  # fmt: skip


@pytest.mark.parametrize("names", [True, False])
def test_classes_that_are_named_as_numbers_keep_their_labels(names: bool, class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"10": 3, "2": 3, "1": 3})
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={tmp_path / 'shards'}")
    assert done.returncode == 0, done.stderr
    if names:
        (tmp_path / "shards/classes.txt").write_text("1\n10\n2\n")
    first, second = data("imagefolder", root, test_fraction=0.0), data("webdataset", tmp_path / "shards", test_fraction=0.0)
    assert second.classes == first.classes == ["1", "10", "2"]
    assert second.parts["train"].labels == first.parts["train"].labels


def test_a_packing_goes_on_and_mends(packed: tuple[Path, Path]) -> None:
    root, shards = packed
    before = contents(shards)
    (shards / "train/000001.tar").unlink()
    (shards / "train/000002.tar").write_bytes(b"damaged")
    kept = (shards / "train/000000.tar").stat().st_mtime_ns
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={shards}", "images=4")
    assert done.returncode == 0, done.stderr
    assert contents(shards) == before
    assert (shards / "train/000000.tar").stat().st_mtime_ns == kept


def test_shards_of_others_are_left_alone(packed: tuple[Path, Path], class_folders: Folders, tmp_path: Path) -> None:
    root, shards = packed
    before = contents(shards)
    class_folders(root, train={"cat": 9, "dog": 7})
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={shards}", "images=4")
    assert (done.returncode, "has shards of other images" in done.stderr) == (2, True)
    assert contents(shards) == before
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={root}")
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)


@pytest.mark.parametrize(("task", "label"), [("multilabel", ["labels"]), ("regression", ["bright", "warm"])])
def test_labels_and_numbers(task: str, label: list[str], tmp_path: Path) -> None:
    table = coloured(tmp_path / "data", 40)
    columns = f"data.label=[{','.join(label)}]"
    done = command("pack", f"task={task}", "data=table", f"data.root={table}", columns, f"output={tmp_path / 'shards'}")
    assert done.returncode == 0, done.stderr
    first = data("table", table, task, label=label)
    second = data("webdataset", tmp_path / "shards", task, label=label)
    assert second.classes == first.classes
    assert {part: images.labels for part, images in second.parts.items()} == {part: images.labels for part, images in first.parts.items()}


def test_the_other_way_to_say_it(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(**PARTS)
    done = command("data", f"pack={root}", f"out={tmp_path / 'shards'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shards/train/000000.tar").is_file()

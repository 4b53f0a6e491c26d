"""Sources, splits and bad folders."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.sources.load import load_source
from visionlora.data.split import complete, recorded
from visionlora.tasks.registry import make_task

Folders = Callable[..., Path]
TWO = {"cat": 10, "dog": 20}


def data(root: Path, name: str = "imagefolder", **more: Any) -> ImageData:
    return ImageData(DataConfig(name, str(root), **more))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"train": TWO}, {"train": 21, "val": 3, "test": 6}),
        ({".": TWO}, {"train": 21, "val": 3, "test": 6}),
        ({"train": TWO, "test": TWO}, {"train": 27, "val": 3, "test": 30}),
        ({"train": TWO, "val": TWO}, {"train": 27, "val": 3, "test": 30}),
        ({"train": TWO, "val": TWO, "test": TWO}, {"train": 30, "val": 30, "test": 30}),
    ],
)
def test_what_is_missing_is_split_off(parts: dict[str, dict[str, int]], expected: dict[str, int], class_folders: Folders) -> None:
    loaded = data(class_folders(**parts))
    assert loaded.classes == ["cat", "dog"]
    assert {name: len(part) for name, part in loaded.parts.items()} == expected
    names = [name for part in loaded.parts.values() for name in part.names]
    assert len(names) == len(set(names))
    for part in loaded.parts.values():
        assert Counter(part.labels)[1] == 2 * Counter(part.labels)[0]
        assert all(path.parent.name == loaded.classes[label] for path, label in zip(part.paths, part.labels, strict=True))


def test_split_is_the_same_every_time_and_on_record(class_folders: Folders) -> None:
    root = class_folders(train=TWO)
    first, second, other = data(root), data(root), data(root, split_seed=1)
    assert first.record == second.record != other.record
    class_folders(root, train={"cat": 15, "dog": 25})  # images are added later
    again = recorded(load_source(DataConfig("imagefolder", str(root))), first.record)
    assert {name: part.names for name, part in again.items()} == first.record
    (root / first.record["test"][0]).unlink()
    with pytest.raises(UserError, match="is not in the data any more"):
        recorded(load_source(DataConfig("imagefolder", str(root))), first.record)


def test_no_validation_part(class_folders: Folders) -> None:
    assert set(data(class_folders(train=TWO), val_fraction=0.0).parts) == {"train", "test"}


def broken(case: str, make: Folders) -> Path:
    if case == "missing":
        return Path("nowhere")
    root = make(train=TWO)
    if case == "empty":
        return make(Path(str(root) + "-empty"))
    if case == "empty class":
        (root / "train" / "owl").mkdir()
    if case == "one class":
        return make(Path(str(root) + "-one"), train={"cat": 3})
    if case == "classes differ":
        make(root, test={"cat": 2, "cow": 2})
    if case == "too few":
        return make(Path(str(root) + "-few"), train={"cat": 1, "dog": 9})
    if case == "misnamed":
        make(root, valid=TWO)
    if case == "no train":
        return make(Path(str(root) + "-test"), test=TWO)
    return root


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "data.root=nowhere is not there"),
        ("empty", "is empty: it has no class folders"),
        ("empty class", "owl has no images"),
        ("one class", "has one class folder only"),
        ("classes differ", "differ: cow, dog is in one of them only"),
        ("too few", "class 'cat' has 1"),
        ("no train", "has test but no train folder"),
        ("misnamed", "valid beside train is not read"),
    ],
)
def test_bad_folders(case: str, message: str, class_folders: Folders) -> None:
    with pytest.raises(UserError, match=message):
        data(broken(case, class_folders))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_torchvision_files(name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's pickled layout, made small; its checksums are of the real files."""
    import torchvision

    cls = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *a: True)
    folder = tmp_path / cls.base_folder
    folder.mkdir()
    key = "labels" if name == "cifar10" else "fine_labels"
    for file, _ in (*cls.train_list, *cls.test_list):
        content = {"data": np.zeros((20 * classes, 3072), np.uint8), key: list(range(classes)) * 20}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: [f"c{i}" for i in range(classes)]}))
    loaded = data(tmp_path, name)
    assert len(loaded.classes) == classes
    assert {part: len(p) for part, p in loaded.parts.items()}["test"] == 20 * classes


def test_cifar_class_folders_are_found_in_a_folder_of_its_name(class_folders: Folders, tmp_path: Path) -> None:
    class_folders(tmp_path / "cifar10", train=TWO, test=TWO)
    assert len(data(tmp_path, "cifar10").parts["test"]) == 30


def test_digits_and_fake() -> None:
    digits = data(Path("data"), "digits")
    assert sum(len(part) for part in digits.parts.values()) == 1797
    arrays = digits.parts["train"].arrays
    assert arrays is not None
    assert arrays.max() == 255
    fake = ImageData(DataConfig("fake", "data", num_classes=3, num_images=30))
    assert {name: len(part) for name, part in fake.parts.items()} == {"train": 27, "val": 3, "test": 15}
    assert fake.parts["test"].labels == [0, 1, 2] * 5


def test_complete_names_the_class_that_is_too_small(class_folders: Folders) -> None:
    config = DataConfig("imagefolder", str(class_folders(train={"cat": 1, "dog": 30})))
    with pytest.raises(UserError, match=r"class 'cat' has 1.*data\.test_fraction"):
        complete(load_source(config), config, make_task("classify", ["cat", "dog"]))


def test_so_many_pictures_a_class_drawn_by_the_seed_and_on_record(class_folders: Folders) -> None:
    folder = class_folders(train=TWO, test=TWO)
    few = data(folder, per_class=3, val_fraction=0.0)
    assert Counter(few.parts["train"].labels) == {0: 3, 1: 3}
    assert len(few.parts["test"]) == 30
    again, other = (data(folder, per_class=3, val_fraction=0.0, split_seed=seed) for seed in (0, 1))
    assert again.parts["train"].names == few.parts["train"].names != other.parts["train"].names
    assert recorded(load_source(few.config), few.record)["train"].names == few.parts["train"].names
    with pytest.raises(UserError, match="class 'cat' has 10 training images"):
        data(folder, per_class=11, val_fraction=0.0)


def test_every_format_that_is_read_is_found_and_the_rest_is_told(class_folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    root = class_folders(train=TWO, test=TWO)
    for name in ("a.gif", "b.jfif", "c.jp2", "d.AVIF", "e.webp", "f.tga"):
        Image.new("RGB", (16, 16), "red").save(root / "train" / "cat" / name, format="jpeg" if name == "b.jfif" else None)
    for name in ("g.heic", "h.heic", "i.txt", "j", ".DS_Store", "._a.jpg"):
        (root / "train" / "dog" / name).write_bytes(b"of another kind")
    loaded = load_source(DataConfig("imagefolder", str(root)))
    assert len(loaded.parts["train"]) == 36
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"data.root={root}" in said
    for part in ("2 .heic", "1 .txt", "1 without an ending", "2 hidden"):
        assert part in said
    for path in (root / "train" / "cat").iterdir():
        path.unlink()
    (root / "train" / "cat" / "a.heic").touch()
    with pytest.raises(UserError, match=r"cat has no images that can be read \(.*3 \.heic.* are none\)"):
        load_source(DataConfig("imagefolder", str(root)))

"""``data=table``: which rows become which images with which labels, and every mistake in a table told with its line."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from visionlora import UserError
from visionlora.backbone.info import Preprocessing
from visionlora.data.config import DataConfig
from visionlora.data.files import FilesBelow
from visionlora.data.module import ImageData
from visionlora.data.sources.table_file import rows_of
from visionlora.data.split import fold_parts

Folders = Callable[..., Path]
HEAD = "image,label\n"
TWO = "".join(f"train/cat/{i}.png,cat\ntrain/dog/{i}.png,dog\n" for i in range(6))


@pytest.fixture
def table(class_folders: Folders) -> Callable[..., ImageData]:
    """The data of a table with that text, beside twelve images of cats and dogs."""
    root = class_folders(train={"cat": 6, "dog": 6})

    def make(text: str, name: str = "labels.csv", task: Any = None, **keys: Any) -> ImageData:
        (root / name).write_text(text)
        return ImageData(DataConfig("table", str(root / name), **{"val_fraction": 0.0, "test_fraction": 0.25} | keys), task=task)

    return make


def of(data: ImageData, part: str = "train") -> dict[str, Any]:
    return dict(zip(data.parts[part].names, data.parts[part].labels, strict=True))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (HEAD + TWO, {}),
        ("note,image,label\n" + "".join(f"x,{line}\n" for line in TWO.split()), {}),
        ("filename,kind\n" + TWO, {}),  # the only column that is left
        ("where,kind,more\n" + TWO.replace("\n", ",1\n"), {"image": "where", "label": "kind"}),
        ((HEAD + TWO).replace(",", "\t"), {"name": "labels.tsv"}),
        ("\ufeff" + (HEAD + TWO).replace("\n", "\r\n") + "\r\n", {}),  # as Excel writes it
        ((HEAD + TWO).replace(",", ";"), {}),  # as it does where the comma is in numbers
        ((HEAD + TWO).replace(".png", ""), {}),
    ],
)
def test_classes_of_a_table(text: str, keys: dict[str, Any], table: Callable[..., ImageData]) -> None:
    data = table(text, **keys)
    assert data.classes == ["cat", "dog"]
    labels = {name: label for part in data.parts for name, label in of(data, part).items()}
    assert labels == {f"train/{name}/{i}.png": number for number, name in enumerate(["cat", "dog"]) for i in range(6)}
    assert data.parts["train"].open(0, 3).size == (24, 24)


def test_parquet(table: Callable[..., ImageData], class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"cat": 6, "dog": 6})
    names = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(6)]
    columns = {"image": names, "labels": [["red", "blue"], ["red"], [], *[["blue"]] * 9]}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "t.parquet")
    data = ImageData(DataConfig("table", str(root / "t.parquet"), val_fraction=0.0, test_fraction=0.0), task="multilabel")
    assert data.classes == ["blue", "red"]
    assert list(of(data).values())[:3] == [(0, 1), (1,), ()]


def test_a_folder_of_images_elsewhere(table: Callable[..., ImageData]) -> None:
    bare = TWO.replace("train/", "").replace(".png", "")
    data = table("id,breed\n" + bare, image="id", images="train")
    assert data.classes == ["cat", "dog"]
    assert data.parts["train"].open(0, 3).size == (24, 24)
    assert set(data.names["train"]) | set(data.names["test"]) == {f"{line.split(',')[0]}.png" for line in bare.split()}
    with pytest.raises(UserError, match=r"names 12 images that are not there: cat/0 \(line 2\).*data\.images=DIR says where"):
        table("image,label\n" + bare)


@pytest.mark.parametrize("heading", ["part", "split", "subset"])
def test_parts_are_those_of_the_column(heading: str, table: Callable[..., ImageData]) -> None:
    rows = [line.split(",") for line in TWO.split()]
    parts = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
    data = table(
        f"{heading},image,label\n" + "".join(f"{part},{image},{label}\n" for part, (image, label) in zip(parts, rows, strict=True))
    )
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 8, "val": 2, "test": 2}
    assert data.record == {}


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_in_two_parts(seed: int, table: Callable[..., ImageData]) -> None:
    lines = [f"{line},{number // 3}" for number, line in enumerate(TWO.split())]  # four patients with three images each
    data = table("image,label,group\n" + "\n".join(lines), split_seed=seed, val_fraction=0.3)
    where = {part: set(images.groups) for part, images in data.parts.items()}
    assert set.union(*where.values()) == {"0", "1", "2", "3"}
    assert sum(map(len, where.values())) == 4


def test_a_group_is_never_in_two_folds(table: Callable[..., ImageData]) -> None:
    lines = [f"{line},{number // 2}" for number, line in enumerate(TWO.split())]  # six patients with two images each
    data = table("image,label,group\n" + "\n".join(lines), test_fraction=0.0, folds="auto", val_fraction=None)
    assert data.folds == 5
    train = data.parts["train"]
    held = [{train.groups[i] for i in held_out} for _, held_out in fold_parts(train, data.folds, 0, data.task)]
    assert sorted(group for groups in held for group in groups) == ["0", "1", "2", "3", "4", "5"]


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "the table is empty"),
    (HEAD, {}, "has no rows"),
    ("picture,label\n" + TWO, {}, "has no column 'image'.*its columns are 'picture', 'label'.*data.image=COLUMN"),
    ("image,a,b\n" + TWO.replace("\n", ",1\n"), {}, "does not say which column has the labels.*'a', 'b'.*data.label=COLUMN"),
    (HEAD + TWO, {"label": "labell"}, "data.label=labell: .* has no such column.*Did you mean 'label'"),
    (HEAD + TWO + "no/such.png,cat\nnor/this.png,dog\n", {}, r"2 images .* not there: no/such.png \(line 14\); nor/this.png \(line 15"),
    (HEAD + TWO + "train/cat/0.png,dog\n", {}, "lines 2 and 14 have the same image, train/cat/0.png"),
    (HEAD + TWO.replace("2.png,dog", "2.png,"), {}, "line 7, column 'label': it is empty, where a class is needed"),
    (HEAD + TWO + "train/dog/0.png\n", {}, "line 14: it has 1 cell, where the heading has 2"),
    (HEAD + TWO + "./train/cat/0.png,dog\n", {}, "lines 2 and 14 have the same image, train/cat/0.png"),
    (HEAD + TWO.replace("2.png,dog", "2.png,0,5"), {}, "line 7: it has 3 cells, where the heading has 2"),
    (HEAD.replace("image", "part,image") + "trian,train/cat/0.png,cat\n", {}, "line 2, column 'part': 'trian' is no part"),
    (
        "part,image,label\ntrain,train/cat/0.png,cat\ntrain,train/dog/0.png,dog\ntest,train/dog/1.png,dgo\n", {},
        "line 4, column 'label': no image of the training part is of the class 'dgo'. Did you mean 'dog'",
    ),
    (
        "part,group,image,label\ntrain,a,train/cat/0.png,cat\ntrain,b,train/dog/0.png,dog\ntest,a,train/dog/1.png,dog\n", {},
        "the group 'a' is in the parts train and test",
    ),
    ("image,x\n" + TWO.replace(",cat", ",1").replace(",dog", ",nan"), {"task": "regression"}, "line 3, column 'x': 'nan' is no finite"),
    ("image,x\n" + TWO.replace("cat\n", "1\n").replace("dog\n", "\n"), {"task": "regression"}, "line 3, column 'x': it is empty"),
    (HEAD + TWO, {"task": "regression"}, "line 2, column 'label': 'cat' is no number"),
    (HEAD + TWO, {"task": "multilabel", "label": ["image", "label"]}, "line 2, column 'image': 'train/cat/0.png' is neither 1 nor 0"),
    (HEAD + TWO.replace("cat\n", "a|a\n"), {"task": "multilabel"}, "line 2, column 'label': a label is named twice in 'a|a'"),
    (HEAD + TWO.replace(",cat", ",").replace(",dog", ","), {"task": "multilabel"}, "has no labels at all"),
    (HEAD + TWO, {"label": ["label", "image"]}, "data.label names 2 columns, and an image has one class"),
    ("image,label,weight\n" + TWO.replace("\n", ",-1\n"), {}, "line 2, column 'weight': '-1' is no number from 0 up"),
    ("image,label,weight\n" + TWO.replace("\n", ",\n"), {}, "line 2, column 'weight': '' is no number"),
    (HEAD + TWO, {"name": "labels.txt"}, "a table is a .csv, .tsv or .parquet file"),
    ("no parquet", {"name": "labels.parquet"}, "cannot be read as Parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "keys", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_place(text: str, keys: dict[str, Any], message: str, table: Callable[..., ImageData]) -> None:
    with pytest.raises(UserError, match=message):
        table(text, **keys)


def drawn(data: ImageData, epochs: int = 200) -> dict[str, float]:
    """How often each training image comes in an epoch, on average."""
    data.prepare_for(Preprocessing(24, (0.5,) * 3, (0.5,) * 3))
    sampler: Any = data.train_dataloader().sampler
    counts: Counter[str] = Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            items = batch[1] if isinstance(batch[1], list) else [batch]
            counts.update(data.parts["train"].names[index] for index, _ in items)
    return {name: counts[name] / epochs for name in data.parts["train"].names}


@pytest.mark.parametrize("balance", ["none", "sampler"])
def test_images_come_as_their_weights_say(balance: str, table: Callable[..., ImageData], capsys: pytest.CaptureFixture[str]) -> None:
    """So that the mean loss of an epoch is, on average, the mean of the losses times the weights."""
    rows = TWO.replace("cat\n", "cat,1\n").replace("dog\n", "dog,3\n").replace("train/dog/0.png,dog,3", "train/dog/0.png,dog,0")
    data = table("image,label,weight\n" + rows, test_fraction=0.0, balance=balance)
    found = drawn(data)
    cats = {name: often for name, often in found.items() if "cat" in name}
    dogs = {name: often for name, often in found.items() if "dog" in name and "0.png" not in name}
    assert found["train/dog/0.png"] == 0
    assert sum(found.values()) == 12
    assert all(often == pytest.approx(12 / 21, rel=0.25) for often in cats.values())
    assert all(often == pytest.approx(36 / 21, rel=0.25) for often in dogs.values())
    assert "images come as often as their 'weight' says" in capsys.readouterr().err
    assert data.parts["train"].subset([1, 0]).weights == [0.0, 1.0]


def test_a_label_named_weight_is_none(table: Callable[..., ImageData]) -> None:
    data = table("image,weight\n" + TWO.replace("cat\n", "1\n").replace("dog\n", "3\n"), task="regression", label="weight")
    assert not data.parts["train"].weights
    with pytest.raises(UserError, match="no image of the training part has a weight above 0"):
        drawn(table("image,label,weight\n" + TWO.replace("\n", ",0\n")))


@pytest.mark.parametrize(("root", "message"), [("missing.csv", "is not there"), (".", "is a folder: give the table's file")])
def test_no_table(root: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ImageData(DataConfig("table", str(tmp_path / root)))


def test_paths_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    files = FilesBelow(tmp_path, ["a/1.png", "2.png", "a/3.png"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").touch()
    assert list(files.subset([2, 0])) == [tmp_path / "a/3.png", tmp_path / "a/1.png"]
    assert files.missing() == ["2.png", "a/3.png"]
    assert list(pickle.loads(pickle.dumps(files))) == list(files)


def test_commas_in_numbers_become_points_where_semicolons_separate(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text('image;size;colour\na.png;0,5;"red, green"\nb.png;-12,25;1,2,3\n')
    assert list(rows_of(file))[1:] == [["a.png", "0.5", "red, green"], ["b.png", "-12.25", "1,2,3"]]

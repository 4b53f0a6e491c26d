"""``data=hf``: a data set of Hugging Face's library is what its images in folders are, wherever it lies, and mistakes are told."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import QUIET, TINY, command, results
from faults.killing import PICTURES, Case, Killed, differences, go_on
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.common.errors import UnreadableError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.pack_config import PackConfig
from visionlora.data.packing import pack
from visionlora.data.sources.hf import Rows

Folders = Callable[..., Path]
CLASSES = ["dog", "cat"]
"""In the data set's own order, which is kept."""


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library keeps of Parquet files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")


@pytest.fixture
def root(class_folders: Folders) -> Path:
    return class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2})


def split(folder: Path, **more: Callable[[str], Any]) -> datasets.Dataset:
    """Class folders as a split; ``more`` are columns by what they are of the class."""
    files = sorted(folder.rglob("*.png"), key=lambda path: (path.stem, path.parent.name))
    columns: dict[str, list[Any]] = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in files]}
    columns["label"] = [CLASSES.index(path.parent.name) for path in files]
    columns |= {name: [of(path.parent.name) for path in files] for name, of in more.items()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    own = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)
    for name in more:
        own = own.add_column(name, columns[name])
    return own


def splits(root: Path, held_out: str = "test", **more: Callable[[str], Any]) -> datasets.DatasetDict:
    return datasets.DatasetDict({"train": split(root / "train", **more), held_out: split(root / "test", **more)})


def data(root: Path | str, task: Any = None, **keys: Any) -> ImageData:
    return ImageData(DataConfig("hf", str(root), val_fraction=0.0, **keys), task=task)


def on_disk(found: datasets.DatasetDict, out: Path) -> Path:
    found.save_to_disk(out)
    return out


def in_parquet(found: datasets.DatasetDict, out: Path) -> Path:
    for name, rows in found.items():
        for number in range(2):
            part = rows.shard(2, number)
            (out / "data").mkdir(parents=True, exist_ok=True)
            part.to_parquet(out / f"data/{name}-{number:05}-of-00002.parquet")
    return out


PLACES = {"save_to_disk": on_disk, "Parquet": in_parquet}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("held_out", ["test", "validation", "val"])
def test_it_is_what_its_folders_are(place: str, held_out: str, root: Path, tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(data(PLACES[place](splits(root, held_out), tmp_path / "set"))))
    folder = ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0))
    assert found.classes == CLASSES
    for part in ("train", "test"):
        images, other = found.parts[part], folder.parts[part]
        assert len(images) == len(other)
        assert all(images.bytes_of(i) == len(images.store.read(images.names[i])) for i in range(len(images)))
        pixels = {np.asarray(images.open(i, 3)).tobytes(): found.classes[images.labels[i]] for i in range(len(images))}
        assert pixels == {np.asarray(other.open(i, 3)).tobytes(): folder.classes[other.labels[i]] for i in range(len(other))}


def test_one_split_one_file_and_patterns(root: Path, tmp_path: Path) -> None:
    rows = split(root / "train")
    rows.save_to_disk(tmp_path / "one")
    rows.to_parquet(tmp_path / "images.parquet")
    in_parquet(splits(root), tmp_path / "set")
    assert {
        len(data(place).parts["train"]) + len(data(place).parts["test"]) for place in (tmp_path / "one", tmp_path / "images.parquet")
    } == {12}
    assert len(data(f"{tmp_path}/set/data/*.parquet").parts["test"]) == 4
    assert len(data(f"{tmp_path}/set/data/train-*.parquet", test_fraction=0.25).parts["test"]) == 3


def test_files_that_are_images_as_bytes_or_paths(root: Path, tmp_path: Path) -> None:
    files = sorted((root / "train").rglob("*.png"))
    for name, cell in (("bytes", lambda path: path.read_bytes()), ("paths", str)):
        plain = {"image": [cell(path) for path in files], "label": [path.parent.name for path in files]}
        datasets.Dataset.from_dict(plain).to_parquet(tmp_path / f"{name}.parquet")
        found = data(tmp_path / f"{name}.parquet", test_fraction=0.0)
        assert found.classes == ["cat", "dog"]
        assert np.array_equal(
            np.asarray(found.parts["train"].open(0, 3)), np.asarray(datasets.Image().decode_example({"path": str(files[0]), "bytes": None}))
        )


def test_what_has_no_bytes_is_left_out(tmp_path: Path) -> None:
    cells = [{"bytes": None, "path": "/dev/zero"}, {"bytes": None, "path": str(tmp_path / "no.png")}, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0]}, features=features)
    store = Rows(rows.cast_column("image", datasets.Image(decode=False)), "image", "train")
    assert store.names == ["train/00000000-zero", "train/00000001-no.png", "train/00000002"]
    for name, said in zip(store.names, ("there is no file /dev/zero", "there is no file", "its cell is empty"), strict=True):
        assert store.size(name) == 0
        with pytest.raises(UnreadableError, match=said):
            store.read(name)


def test_several_labels_numbers_and_groups(root: Path, tmp_path: Path) -> None:
    place = on_disk(splits(root, tags=lambda name: ["pet", name], grams=lambda name: 0.5 + (name == "dog")), tmp_path / "set")
    assert data(place, task="multilabel", label="tags").classes == ["cat", "dog", "pet"]
    numbers = data(place, task="regression", label="grams")
    assert numbers.classes == ["grams"]
    assert set(numbers.parts["train"].labels) == {(0.5,), (1.5,)}
    lists = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"", "path": None}] * 3, "labels": [[0], [0, 1], []]},
        features=datasets.Features({"image": datasets.Image(), "labels": datasets.List(datasets.ClassLabel(names=CLASSES))}),
    )
    lists.save_to_disk(tmp_path / "lists")
    assert data(tmp_path / "lists", task="multilabel", test_fraction=0.0).parts["train"].labels == [(0,), (0, 1), ()]
    weighted = split(root / "train", weight=lambda name: 2.0 if name == "cat" else 0.5)
    weighted.save_to_disk(tmp_path / "weights")
    weights = data(tmp_path / "weights").parts["train"]
    assert {CLASSES[label]: weight for label, weight in zip(weights.labels, weights.weights, strict=True)} == {"cat": 2.0, "dog": 0.5}
    one = split(root / "train", group=lambda name: name)
    one.save_to_disk(tmp_path / "groups")
    with pytest.raises(UserError, match="the group 'cat' is in the parts train and test"):
        data(on_disk(datasets.DatasetDict({"train": one, "test": one}), tmp_path / "both"))
    parts = data(tmp_path / "groups").parts
    assert not set(parts["train"].groups) & set(parts["test"].groups)


@pytest.mark.slow
def test_a_training_with_worker_processes_is_that_without(root: Path, tmp_path: Path) -> None:
    """With folds, and an image that cannot be read."""
    found = splits(root)
    broken = {"image": {"bytes": b"no image", "path": None}, "label": 0}
    found["train"] = datasets.concatenate_datasets([found["train"], datasets.Dataset.from_list([broken], features=found["train"].features)])
    place = on_disk(found, tmp_path / "set")
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=hf", f"data.root={place}", "data.image_size=72", "data.folds=2", "data.max_bad=0.2"]
    for name, more in {"0": ("data.num_workers=0", "trainer.max_epochs=2"), "2": ("data.num_workers=2", "trainer.max_epochs=2")}.items():
        done = command("train", *words, *more, f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("0", "2"))
    assert all((first[key] == second[key]).all() for key in first)
    assert "train/00000012" in (tmp_path / "0/bad_files.csv").read_text()
    done = command("evaluate", f"run={tmp_path / '2'}")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "2")["images/test"] == 4


def test_packed_as_shards(root: Path, tmp_path: Path) -> None:
    place = on_disk(splits(root), tmp_path / "set")
    assert pack(PackConfig(DataConfig("hf", str(place)), str(tmp_path / "shards"))) == 16
    again = ImageData(DataConfig("webdataset", str(tmp_path / "shards"), val_fraction=0.0))
    assert np.array_equal(np.asarray(again.parts["train"].open(0, 3)), np.asarray(data(place).parts["train"].open(0, 3)))


def test_mistakes(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of save_to_disk, has no Parquet files, and is no name"):
        data(tmp_path)
    place = on_disk(splits(root, other=lambda name: name), tmp_path / "set")
    for keys, said in (
        ({"label": "labl"}, "data.label=labl: .* has no such column.*Did you mean 'label'"),
        ({"image": "img"}, "data.image=img: "),
    ):
        with pytest.raises(UserError, match=said):
            data(place, **keys)
    with pytest.raises(UserError, match=r"row 0 of train, column 'label': 'cat' is no number"):
        data(place, task="regression")
    unlabelled = splits(root)
    unlabelled["test"] = unlabelled["test"].map(lambda row: {"label": -1})
    with pytest.raises(UserError, match=r"row 0 of test, column 'label': it is empty, where a class is needed"):
        data(on_disk(unlabelled, tmp_path / "unlabelled"))
    with pytest.raises(UserError, match="has no rows of a split named train; its splits are 'a', 'b'"):
        data(on_disk(datasets.DatasetDict(a=unlabelled["train"], b=unlabelled["train"]), tmp_path / "named"))
    shard = next((place / "train").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be read by the library datasets"):
        data(place)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read by the library datasets"):
        data(tmp_path / "x.parquet")


def test_the_hub_without_a_connection(tmp_path: Path) -> None:
    words = [word for word in TINY if word != "data=fake"]
    done = command(
        "train",
        *words,
        "data=hf",
        "data.root=owner/name",
        env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: data.root=owner/name")
    assert "without a connection" in line
    assert "save_to_disk" in line


@pytest.mark.faults
def test_killed_after_an_epoch(class_folders: Folders, tmp_path: Path) -> None:
    place = on_disk(splits(class_folders(train={"cat": 60, "dog": 60}, test={"cat": 8, "dog": 8})), tmp_path / "set")
    case = Case((*PICTURES, "data=hf", "data.num_workers=2"), pictures=True)
    assert Killed(case.command_line(tmp_path / "whole", place), tmp_path / "whole").wait() == 0
    folder = tmp_path / "run"
    call = case.command_line(folder, place)
    run = Killed(call, folder)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.signal_after(0, signal.SIGKILL), run.stderr
    run.wait()
    said = go_on(call, folder)
    assert not differences(folder, tmp_path / "whole"), said

"""``data=webdataset``: shards are what class folders are, in any layout, and mistakes are told."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUIET, TINY, command, results
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

Folders = Callable[..., Path]


def write(file: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    """A shard: key -> ending -> content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for key, parts in samples.items():
            for ending, content in parts.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def packed(root: Path, label: Callable[[str, int], Mapping[str, bytes]], name: str = "{part}/{number:03}.tar", a_shard: int = 5) -> Path:
    """The class folders ``root`` as shards beside it; ``label`` gives the files that stand beside an image of a class."""
    out = root.with_name("shards")
    for part in ("train", "test"):
        files = sorted((root / part).rglob("*.png"), key=lambda path: (path.stem, path.parent.name))
        classes = sorted({path.parent.name for path in files})
        samples = {
            f"{path.parent.name}-{path.stem}": {"png": path.read_bytes()} | dict(label(path.parent.name, classes.index(path.parent.name)))
            for path in files
        }
        keys = list(samples)
        for number, start in enumerate(range(0, len(keys), a_shard)):
            write(out / name.format(part=part, number=number), {key: samples[key] for key in keys[start : start + a_shard]})
    return out


def data(root: Path | str, task: Any = None, **keys: Any) -> ImageData:
    return ImageData(DataConfig("webdataset", str(root), val_fraction=0.0, **keys), task=task)


LABELS: dict[str, Callable[[str, int], Mapping[str, bytes]]] = {
    "cls with names": lambda name, number: {"cls": name.encode()},
    "cls with numbers": lambda name, number: {"cls": str(number).encode()},
    "txt": lambda name, number: {"txt": f"{name}\n".encode()},
    "json": lambda name, number: {"json": json.dumps({"label": name, "more": 1}).encode()},
    "json of another key": lambda name, number: {"json": json.dumps({"kind": name}).encode()},
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", ["{part}/{number:03}.tar", "{part}-{number:03}.tar"])
def test_shards_are_what_their_folders_are(kind: str, name: str, class_folders: Folders) -> None:
    root = class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2})
    shards = packed(root, LABELS[kind], name)
    if "numbers" in kind:
        (shards / "classes.txt").write_text("cat\ndog\n")
    found = pickle.loads(pickle.dumps(data(shards, label=["kind"] if "another" in kind else None)))
    folder = ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0))
    assert found.classes == ["cat", "dog"]
    for part in ("train", "test"):
        images, other = found.parts[part], folder.parts[part]
        pixels = {np.asarray(images.open(i, 3)).tobytes(): images.labels[i] for i in range(len(images))}
        assert pixels == {np.asarray(other.open(i, 3)).tobytes(): other.labels[i] for i in range(len(other))}


def test_several_labels_and_numbers(class_folders: Folders) -> None:
    root = class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2})
    shards = packed(root, lambda name, number: {"json": json.dumps({"labels": ["pet", name], "weight": number + 0.5}).encode()})
    assert data(shards, task="multilabel").classes == ["cat", "dog", "pet"]
    numbers = data(shards, task="regression", label="weight")
    assert numbers.classes == ["weight"]
    assert set(numbers.parts["train"].labels) == {(0.5,), (1.5,)}


@pytest.mark.slow
def test_a_training_with_worker_processes_is_that_without(class_folders: Folders, tmp_path: Path) -> None:
    root = packed(class_folders(train={"cat": 8, "dog": 8}, test={"cat": 3, "dog": 3}), LABELS["cls with names"])
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=webdataset", f"data.root={root}", "trainer.max_epochs=1", "data.image_size=72"]
    for workers in (0, 2):
        done = command("train", *words, f"data.num_workers={workers}", f"hydra.run.dir={tmp_path / str(workers)}")
        assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("0", "2"))
    assert all((first[key] == second[key]).all() for key in first)
    assert command("evaluate", f"run={tmp_path / '2'}").returncode == 0
    assert results(tmp_path / "0")["images/test"] == 6


def test_mistakes(class_folders: Folders, tmp_path: Path) -> None:
    for root in (tmp_path / "nothing", f"{tmp_path}/*.tar"):
        with pytest.raises(UserError, match="there are no shards"):
            data(root)
    write(tmp_path / "bare/train-0.tar", {"a": {"png": b"x"}})
    with pytest.raises(UserError, match=r"the sample train-0/a has no label|the sample /a has no label"):
        data(tmp_path / "bare")
    write(tmp_path / "none/0.tar", {"a": {"cls": b"x"}})
    with pytest.raises(UserError, match="have no images"):
        data(tmp_path / "none")
    write(tmp_path / "json/0.tar", {"a": {"png": b"x", "json": b"{"}})
    with pytest.raises(UserError, match=r"the \.json of the sample .*a is damaged"):
        data(tmp_path / "json")
    root = packed(class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2}), LABELS["txt"])
    shard = root / "train/000.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"000\.tar (was cut short|cannot be read)"):
        data(root)

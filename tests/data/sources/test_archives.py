"""Class folders in a zip or tar archive: the same images, labels and bytes as unpacked, and damage told."""

from __future__ import annotations

import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET, TINY, command, results
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.common.errors import UnreadableError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.stores import TarStore

Folders = Callable[..., Path]
PARTS = {"train": {"cat": 8, "dog": 8}, "test": {"cat": 3, "dog": 3}}


def packed(root: Path, ending: str, around: str = "") -> Path:
    """``root`` as an archive beside it; ``around``: a folder that all is in."""
    file = root.with_name(f"packed{ending}")
    if ending == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, Path(around, path.relative_to(root)))
    else:
        with tarfile.open(file, "w") as archive:
            archive.add(root, around or ".")
    return file


def data(root: Path) -> ImageData:
    return ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0))


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize("around", ["", "my pictures"])
@pytest.mark.parametrize("parts", [PARTS, {".": PARTS["train"]}])
def test_an_archive_is_what_its_folder_is(ending: str, around: str, parts: dict[str, dict[str, int]], class_folders: Folders) -> None:
    root = class_folders(**parts)
    (root / "notes.txt").write_text("no image")
    folder, archive = data(root), pickle.loads(pickle.dumps(data(packed(root, ending, around))))
    assert archive.classes == folder.classes
    for part, images in folder.parts.items():
        other = archive.parts[part]
        assert other.labels == images.labels
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda i, other=other: np.asarray(other.open(i, 3)), range(len(other))))
        assert all(np.array_equal(image, np.asarray(images.open(i, 3))) for i, image in enumerate(opened))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_training_from_an_archive_ends_at_the_same_weights(ending: str, class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(**PARTS)
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "trainer.max_epochs=1", "data=imagefolder", "data.num_workers=2", "data.image_size=72"]
    for name, place in (("folder", root), ("archive", packed(root, ending))):
        done = command("train", *words, f"data.root={place}", f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("folder", "archive"))
    assert all((first[key] == second[key]).all() for key in first)
    done = command("evaluate", f"run={tmp_path / 'archive'}")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "archive")["test/top1"] == results(tmp_path / "folder")["test/top1"]


def test_damage_is_told(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(**PARTS)
    tar, archive = packed(root, ".tar"), packed(root, ".zip")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[: 512 * 20 + 700])
    with pytest.raises(UserError, match=r"cut\.tar (was cut short|cannot be read)"):
        data(cut)
    (tmp_path / "no.zip").write_bytes(b"PK but nothing more")
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        data(tmp_path / "no.zip")
    shutil.copy(tar, tmp_path / "all.tar.gz")
    with pytest.raises(UserError, match=r"of archives, \.zip and \.tar are read as they are"):
        data(tmp_path / "all.tar.gz")
    known = data(archive).parts["test"]  # which comes first in the archive
    content = bytearray(archive.read_bytes())
    place = content.index(b"IDAT") + 8
    content[place : place + 20] = bytes(20)
    archive.write_bytes(content)
    damaged = []
    for index in range(len(known)):
        try:
            known.open(index, 3)
        except UnreadableError as error:
            damaged.append(error.why)
    assert len(damaged) == 1
    assert "it is damaged in the archive" in damaged[0]


def test_an_archive_without_classes(tmp_path: Path, class_folders: Folders) -> None:
    root = class_folders(train={"cat": 2})
    with pytest.raises(UserError, match=r"has one class folder only \('cat'\)"):
        data(packed(root, ".zip"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no class folders with images"):
        data(packed(tmp_path / "empty", ".tar"))


def test_several_tars_are_one_store(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "1.txt").write_text(name)
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(tmp_path / "1.txt", "1.txt")
    store = TarStore([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert {name: store.read(name) for name in store.places} == {"a/1.txt": b"a", "b/1.txt": b"b"}

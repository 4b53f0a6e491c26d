"""Classes within others: their folders, and the accuracy at every level."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, command

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.tasks.classify.levels import levels_of, right_at

Folders = Callable[..., Path]
TREE = {"animal/cat": 6, "animal/dog": 6, "plant/cat": 6}
"""Of the same name within two."""


def data(root: Path, levels: int = 2) -> ImageData:
    return ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0, levels=levels))


def test_levels_of_names() -> None:
    assert levels_of(["a/b/c", "a/d/e"]) == [["a", "a"], ["a/b", "a/d"], ["a/b/c", "a/d/e"]]
    for names in (["a", "b"], ["a/b", "c"], ["a/", "b/c"], ["/a", "/b"]):
        assert levels_of(names) == []


def test_a_wider_class_has_the_probability_of_all_within() -> None:
    """Plain sums: the likeliest class is a plant, and the likeliest kind an animal."""
    shares, called = torch.tensor([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]), ["animal", "animal", "plant"]
    assert right_at(shares, torch.tensor([0, 0]), called).tolist() == [True, False]
    assert right_at(shares, torch.tensor([2, 2]), called).tolist() == [False, True]
    assert right_at(shares, torch.tensor([2, 2]), ["a", "b", "c"]).tolist() == (shares.argmax(1) == 2).tolist()


def test_folders_and_archives_of_two_levels(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train=TREE, test=dict.fromkeys(TREE, 2))
    found = data(root)
    assert found.classes == list(TREE)
    assert [found.classes[label] for label in found.parts["test"].labels] == [n for n in TREE for _ in range(2)]
    assert data(root, levels=1).classes == ["animal", "plant"]
    shutil.make_archive(str(tmp_path / "tree"), "zip", root)
    packed = data(tmp_path / "tree.zip")
    assert (packed.classes, packed.parts["train"].labels) == (found.classes, found.parts["train"].labels)
    assert found.task.of_folder(Path("x/animal/cat/1.png")) == "animal/cat"
    assert found.task.of_folder(Path("cat/1.png")) is None


def test_mistakes(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"animal/cat": 2, "animal/dog": 2, "plant": 2})
    with pytest.raises(UserError, match=r"data\.levels=2: .*plant has images of its own, 0\.png for one"):
        data(root)
    shutil.make_archive(str(tmp_path / "tree"), "zip", root)
    with pytest.raises(UserError, match=r"plant/\d\.png in .* does not lie in a folder of the last level"):
        data(tmp_path / "tree.zip")
    shutil.rmtree(root / "train/plant")
    (root / "train/plant").mkdir()
    with pytest.raises(UserError, match="plant has no class folders"):
        data(root)


def test_evaluate_tells_every_level(class_folders: Folders, tmp_path: Path) -> None:
    root, run = class_folders(train=TREE, test=dict.fromkeys(TREE, 3)), tmp_path / "run"
    words = (*(word for word in TINY if word != "data=fake"), *QUIET, "data=imagefolder", f"data.root={root}", "data.levels=2")
    done = command("train", *words, "data.image_size=64", "trainer.max_epochs=1", "data.val_fraction=0", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", f"run={run}")
    assert done.returncode == 0, done.stderr
    assert "top-1 accuracy by level, from the widest" in done.stdout
    wide, narrow = json.loads((run / "evaluation_test/levels.json").read_text())
    assert (wide["classes"], narrow["classes"]) == (2, 3)
    assert narrow["top1"] == pytest.approx(json.loads((run / "evaluation_test.json").read_text())["test/top1"], abs=1e-6)

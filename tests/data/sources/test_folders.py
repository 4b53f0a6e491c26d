"""Class folders, looked at before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS

from visionlora import UserError
from visionlora.data.sources.folders import SUFFIXES, part_folders

Folders = Callable[..., Path]


def test_the_suffixes_are_torchvisions() -> None:
    assert SUFFIXES == IMG_EXTENSIONS


@pytest.mark.parametrize(
    ("named", "answer"),
    [
        ("train/cat", "holds 2 images but no class folders: it is one class of train; write data.root={root}."),
        ("nowhere", "is not there; give data.root=DIR"),
        ("train/cat/0.png", "is a file, not a folder"),
        ("bare", "is empty: it has no class folders"),
        ("flat", "holds 1 images but no class folders; move each class's images into a folder of its own"),
        ("one", "has one class folder only ('a'); a classifier needs two"),
    ],
)
def test_a_folder_that_is_not_one_of_class_folders(named: str, answer: str, class_folders: Folders) -> None:
    root = class_folders(train={"cat": 2, "dog": 2}, one={"a": 1}, flat={"": 1}, bare={})
    (root / "bare").mkdir(exist_ok=True)
    with pytest.raises(UserError) as told:
        part_folders(root / named, "imagefolder")
    assert answer.format(root=root) in str(told.value)


def test_the_parts_are_found(class_folders: Folders) -> None:
    root = class_folders(train={"cat": 1, "dog": 1}, test={"cat": 1, "dog": 1})
    assert part_folders(root, "imagefolder") == {"train": root / "train", "test": root / "test"}
    assert part_folders(root / "train", "imagefolder") == {"train": root / "train"}

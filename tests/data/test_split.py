"""Parts that are split off where a source lacks them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, compose

from visionlora.common.errors import UserError
from visionlora.data.module import ImageData
from visionlora.data.split import fold_parts

Folders = Callable[..., Path]
WORDS = (*(word for word in TINY if not word.startswith("data")), *QUIET, "data=imagefolder")
MANY = {f"c{i:02}": 5 for i in range(40)}
LONG_TAIL = {"a": 60, "b": 20, "c": 7, "d": 3, "e": 2, "f": 1, "g": 1}


def opened(root: Path, *words: str) -> ImageData:
    return ImageData(compose(*WORDS, f"data.root={root}", *words).data)


def sizes(data: ImageData) -> dict[str, Counter[int]]:
    return {part: Counter(images.labels) for part, images in data.parts.items()}


def test_a_long_tail_is_split_and_the_only_image_of_a_class_is_trained_on(class_folders: Folders) -> None:
    data = opened(class_folders(train=LONG_TAIL))
    found = sizes(data)
    assert data.folds == 5
    assert {found["train"][label] for label in (5, 6)} == {1}
    assert not {5, 6} & set(found["test"])
    assert all(found["train"][label] and found["test"][label] for label in (0, 1, 2))
    assert sum(sum(counts.values()) for counts in found.values()) == sum(LONG_TAIL.values())
    for kept, _ in fold_parts(data.parts["train"], data.folds, 0, data.task):
        labels = data.parts["train"].subset(kept).labels
        assert set(labels) == set(range(7))


@pytest.mark.parametrize("words", [(), ("data.folds=0", "data.val_fraction=0.1")])
def test_many_classes_have_one_image_each_held_out(words: tuple[str, ...], class_folders: Folders) -> None:
    found = sizes(opened(class_folders(train=MANY), "data.test_fraction=0.1", *words))
    assert set(found["test"].values()) == {1}
    assert ("val" in found) == bool(words)
    assert set(found["train"].values()) == {3 if words else 4}


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.5, 0.75])
def test_the_share_asked_for_is_held_out(share: float, class_folders: Folders) -> None:
    found = sizes(opened(class_folders(train={"a": 10, "b": 11}), f"data.test_fraction={share}"))
    assert sum(found["test"].values()) == math.ceil(share * 21)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_to_hold_any_out(count: int, class_folders: Folders) -> None:
    root = class_folders(train=dict.fromkeys("abc", count))
    with pytest.raises(UserError, match=rf"cannot split 20% off {3 * count} images for test so that every class is in both"):
        opened(root)
    with pytest.raises(UserError, match=rf"cannot split 10% off {3 * count} images for val so that every class is in both"):
        opened(root, "data.test_fraction=0", "data.folds=0", "data.val_fraction=0.1")
    assert "val" not in opened(root, "data.test_fraction=0", "data.folds=0").parts  # nobody asked for it

"""``data.classes``: what classes are called and in which order they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

Folders = Callable[..., Path]


def data(root: Path, classes: Path | str, task: str | None = None, name: str = "imagefolder") -> ImageData:
    return ImageData(DataConfig(name, str(root), val_fraction=0.0, classes=str(classes)), task=task)


@pytest.mark.parametrize(
    ("text", "names", "folders"),
    [
        ("a\tbig cat\nb dog\n", ["big cat", "dog"], ["a", "b"]),
        ("b dog\na big cat\n\nc\tcow\n", ["dog", "big cat"], ["b", "a"]),  # the order of the file; a class that is not there
        ("b\na\n", ["b", "a"], ["b", "a"]),  # an order alone
        ("big cat\nhot dog\n", ["big cat", "hot dog"], ["a", "b"]),  # names in sorted order
        ("\ufeffa Katze\nb Hund\n", ["Katze", "Hund"], ["a", "b"]),
    ],
)
def test_names_and_their_order(text: str, names: list[str], folders: list[str], class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"a": 3, "b": 4}, test={"a": 1, "b": 2})
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    found, plain = data(root, tmp_path / "names.txt"), ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0))
    assert (found.classes, found.folders) == (names, folders)
    for part in ("train", "test"):
        shown, other = found.parts[part], plain.parts[part]
        assert [folders[label] for label in shown.labels] == [plain.classes[label] for label in other.labels]
        assert np.array_equal(np.asarray(shown.open(0, 3)), np.asarray(other.open(0, 3)))


def test_of_a_table_and_of_wordnet(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"n02012849": 3, "n03126707": 3, "n01440764": 3}, test={"n02012849": 1, "n03126707": 1, "n01440764": 1})
    assert data(root, "wordnet").classes == ["tench", "crane (n02012849)", "crane (n03126707)"]
    rows = [f"{path.relative_to(root)},{path.parent.name},{path.parent.parent.name}\n" for path in sorted(root.rglob("*.png"))]
    (root / "labels.csv").write_text("image,label,part\n" + "".join(rows))
    (tmp_path / "names.txt").write_text("n03126707 machine\nn02012849 bird\nn01440764 fish\n")
    assert data(root / "labels.csv", tmp_path / "names.txt", name="table").classes == ["machine", "bird", "fish"]


def test_mistakes(class_folders: Folders, tmp_path: Path) -> None:
    root, file = class_folders(train={"a": 3, "b": 4}, test={"a": 1, "b": 2}), tmp_path / "names.txt"
    for text, said in {
        "a cat\nc dog\n": r"has no line for the class 'b' \(1 of 2 are missing\)",
        "x\ny\nz\n": r"has no line for the class 'a' \(2 of 2 are missing\)",
        "a cat\nb cat\n": "two classes are named 'cat'",
        "cat\ncat\n": "has no line for the class|two classes are named 'cat'",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            data(root, file)
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read: No such file"):
        data(root, tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="the class 'a' is no WordNet id"):
        data(root, "wordnet")
    rows = [f"{path.relative_to(root)},{len(path.stem)}.5\n" for path in sorted(root.rglob("*.png"))]
    (root / "counts.csv").write_text("image,count\n" + "".join(rows))
    with pytest.raises(UserError, match="names classes, which the labels of this task are not"):
        data(root / "counts.csv", file, task="regression", name="table")

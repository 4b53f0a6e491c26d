"""Files that name the images of a part: ``ImageSets/*/train.txt`` of Pascal VOC, and ``valid.txt`` of fast.ai."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath

from visionlora.common.errors import UserError
from visionlora.common.text import not_there

LISTS = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
"""Files that name the images of a part, the first that is there."""
HELD_OUT = "valid.txt"
"""The file beside the images that names those of the validation part; all others are for training."""


def of_lists(folder: Path, known: Collection[str]) -> dict[str, list[str]]:
    """The names, without endings, by the part whose list in a folder names them; nothing where no list is of training images.

    Raises:
        UserError: a list names an image that is not known.
    """
    parts = {}
    for part, names in LISTS.items():
        file = next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        if file is not None:
            parts[part] = _named(file, known)
    return parts if "train" in parts else {}


def of_held_out(file: Path, known: Collection[str]) -> dict[str, list[str]]:
    """The names by part, where a file names the validation images.

    Raises:
        UserError: it names an image that is not known, or leaves none for training.
    """
    held_out = _named(file, known)
    left = [name for name in known if name not in set(held_out)]
    if not left:
        raise UserError(f"{file} names all images, and none is left for training.")
    return {"train": left, "val": held_out}


def _named(file: Path, known: Collection[str]) -> list[str]:
    """The names in the first word of each line, each once, without an ending of an image."""
    try:
        words = [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    names = [word if word in known else PurePath(word).stem for word in words]
    absent = [word for word, name in zip(words, names, strict=True) if name not in known]
    if absent:
        raise UserError(f"{file} names {not_there(absent)}.")
    return list(dict.fromkeys(names))

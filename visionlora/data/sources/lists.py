"""Files that name the images of a part: ``ImageSets/*/train.txt`` of Pascal VOC, and ``valid.txt`` of fast.ai."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from visionlora.common.errors import UserError
from visionlora.common.text import counted, first_of

LISTS = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
"""Files that name the images of a part, the first that is there."""
HELD_OUT = "valid.txt"
"""The file beside the images that names those of the validation part; all others are for training."""
SHOWN = 10
"""Names in a sentence."""


def of_lists(folder: Path, paths: Sequence[str], labels: str) -> dict[str, list[int]]:
    """Places of images by the part whose list in a folder names them; nothing where no list is of training images.

    Args:
        folder: of the lists; one that is empty counts as none.
        paths: of the images that have labels, below their folder, without their endings.
        labels: what those are in, in words.

    Raises:
        UserError: a list names what is none of these images, or a name is that of several.
    """
    parts = {}
    for part, names in LISTS.items():
        file = next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        places = [] if file is None else _places(file, paths, labels)
        if places:
            parts[part] = places
    return parts if "train" in parts else {}


def of_held_out(file: Path, paths: Sequence[str], labels: str) -> dict[str, list[int]]:
    """Places of images by part, where a file names those for validation; see ``of_lists``.

    Raises:
        UserError: see ``of_lists``; or no image is left for training.
    """
    held_out = set(_places(file, paths, labels))
    left = [place for place in range(len(paths)) if place not in held_out]
    if not left:
        raise UserError(f"{file} names all images, and none is left for training.")
    return {"train": left, "val": sorted(held_out)}


def _places(file: Path, paths: Sequence[str], labels: str) -> list[int]:
    """The place of the image that each line names, by its path or by its name alone."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    by_path = {path: place for place, path in enumerate(paths)}
    often = Counter(PurePosixPath(path).name for path in paths)
    by_name = {PurePosixPath(path).name: place for place, path in enumerate(paths)}
    in_folders = any("/" in path for path in paths)
    found, absent = dict[int, None](), list[str]()
    for line in lines:
        words = [each for one in (line, line.split()[0]) for each in (one, PurePosixPath(one).with_suffix("").as_posix())]
        known: Mapping[str, int] = by_path if any(word in by_path for word in words) else {} if "/" in line and in_folders else by_name
        name = next((word for word in words if word in known), None)
        if name is None:
            absent.append(line)
        elif known is by_name and often[name] > 1:
            raise UserError(f"{file} names {line}, and {often[name]} images are called so; it must say their folders, as in FOLDER/{line}.")
        else:
            found[known[name]] = None
    if absent:
        those = f"{counted(len(absent), 'image')} that {'is' if len(absent) == 1 else 'are'} not there, or without {labels}"
        raise UserError(f"{file} names {those}: {first_of(absent, SHOWN)}.")
    return list(found)

"""Images and the files of their labels, paired by name: what ``data=masks``, ``voc`` and ``yolo`` have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted, first_of
from visionlora.data.files import OtherFiles

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names that the folder of a part may have."""
SHOWN = 10
"""Files that a sentence names."""


@dataclass(frozen=True)
class PartPairs:
    """The images of a part and the files of their labels.

    Args:
        names: paths of the images below the root.
        paths: of the images.
        labels: of the files, one for each image.
    """

    names: list[str]
    paths: list[Path]
    labels: list[Path]

    def subset(self, places: Iterable[int]) -> PartPairs:
        """Those at some places, in their order."""
        chosen = list(places)
        return PartPairs(
            [self.names[place] for place in chosen], [self.paths[place] for place in chosen], [self.labels[place] for place in chosen]
        )


def part_roots(root: Path, folders: Sequence[tuple[str, str]], beside: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Where each part has its images and its labels: ``root/PART/FOLDER``, ``root/FOLDER/PART``, ``root/PART`` and ``root/PARTBESIDE``, or
    ``root/FOLDER`` for all of it as ``train``.

    Args:
        root: of the data.
        folders: what those of images and labels may be called, the usual names first.
        beside: what may follow the name of a part in that of the folder of its labels.

    Raises:
        UserError: there are none.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} {'is a file, not a folder' if root.exists() else 'is not there'}.")
    found: dict[str, tuple[Path, Path]] = {}
    for part, names in PARTS.items():
        places = [place for name in names for place in _places(root, name, folders, beside)]
        there = [place for place in places if place[0].is_dir() and place[1].is_dir()]
        if there:
            found[part] = there[0]
    whole = [(root / images, root / labels) for images, labels in folders]
    there = [place for place in whole if place[0].is_dir() and place[1].is_dir()]
    if not found and there:
        return {"train": there[0]}
    if "train" not in found:
        images, labels = folders[0]
        raise UserError(f"data.root={root} has no folders train/{images} and train/{labels}, nor {images} and {labels}.")
    if "test" not in found and "val" in found:  # as with class folders: the one held-out part gives the final figure
        found["test"] = found.pop("val")
    return found


def _places(root: Path, part: str, folders: Sequence[tuple[str, str]], beside: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Where a part may have its images and its labels."""
    for images, labels in folders:
        yield root / part / images, root / part / labels
        yield root / images / part, root / labels / part
    for ending in beside:
        yield root / part, root / f"{part}{ending}"


def pairs(
    root: Path, images: Path, labels: Path, endings: Sequence[str], suffixes: Sequence[str] = ("",), lacking: bool = False
) -> PartPairs:
    """Every image below a folder with the file of its labels, which has its name and one of the endings.

    Args:
        root: that names are below of.
        images: the folder of the images.
        labels: the folder of the files.
        endings: that these may have, with their dot.
        suffixes: that may stand between name and ending.
        lacking: an image may have no file; it is left out then, and a line says how many.

    A line says how many files are of no image.

    Raises:
        UserError: an image has no such file, two images have the same one, or there are no images.
    """
    is_image, used = OtherFiles(), dict[Path, Path]()
    files = {
        path.relative_to(labels).with_suffix("").as_posix(): path for path in sorted(labels.rglob("*")) if path.suffix.lower() in endings
    }
    found, missing = PartPairs([], [], []), []
    for path in sorted(images.rglob("*")):
        if not path.is_file() or not is_image(path):
            continue
        stem = path.relative_to(images).with_suffix("").as_posix()
        file = next((files[stem + suffix] for suffix in suffixes if stem + suffix in files), None)
        if file is None:
            missing.append(path.name)
            continue
        if (before := used.setdefault(file, path)) != path:
            raise UserError(f"{before} and {path} have the same name, and one file, {file}; rename one of them.")
        found.names.append(path.relative_to(root).as_posix())
        found.paths.append(path)
        found.labels.append(file)
    if missing and not (lacking and found.names):
        have = "has" if len(missing) == 1 else "have"
        raise UserError(
            f"{counted(len(missing), 'image')} of {images} {have} no file ({', '.join(endings)}) in {labels}: {first_of(missing, SHOWN)}."
        )
    if not found.names:
        raise UserError(f"{images} has no images.")
    if missing and not process_rank():
        print(f"{images}: {counted(len(missing), 'image')} without a file in {labels}, left out (first: {missing[0]}).", file=sys.stderr)
    if (others := len(files) - len(used)) and not process_rank():
        print(f"{labels}: {counted(others, 'file')} of no image, left out.", file=sys.stderr)
    return found

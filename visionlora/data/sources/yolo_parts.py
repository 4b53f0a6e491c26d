"""The parts that ``data.yaml`` names: ``train``, ``val`` and ``test``, each a folder, a list of images (``.txt``), or several of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted
from visionlora.data.files import OtherFiles
from visionlora.data.sources.annotated import part_of
from visionlora.data.sources.pairs import PARTS


class NamedParts:
    """The part of each file: as ``data.yaml`` says, and of a part that it does not name by the folders on the way.

    Args:
        file: ``data.yaml``.
        content: of it.
        root: the folder of the data.

    Raises:
        UserError: an entry is neither a path nor a list of paths, a list names no image that is there, or an image is of two parts.
    """

    def __init__(self, file: Path, content: Mapping[str, Any], root: Path) -> None:
        self.root, self.by_image = root, dict[Path, str]()
        bases = (base_of(file, content), file.parent, root)
        places = {part: _places(file, part, entry, bases, root) for part, entry in _entries(content).items()}
        self.parts = [part for part, there in places.items() if there] if places.get("train") else []
        self.lists = {place.resolve() for part in self.parts for place in places[part] if place.is_file()}
        for part in list(self.parts):
            self._take(file, part, [image for place in places[part] for image in _images(place, root)])
        self.unnamed = {key for image in _images(root, root) if (key := _key(image)) not in self.by_image} if self.parts else set()

    def _take(self, file: Path, part: str, images: list[Path]) -> None:
        keys = {_key(image) for image in images}
        before = {key: self.by_image[key] for key in keys if key in self.by_image}
        if before and len(before) == len(keys):  # as coco128.yaml has it, to try a training
            self.parts.remove(part)
            if not process_rank():
                print(f"{file} names the same images for {min(before.values())} and {part}, which is left out.", file=sys.stderr)
            return
        if before:
            key, other = min(before.items())
            raise UserError(
                f"{file}: {counted(len(before), 'image')} would be of {other} and of {part}, {key.name} for one; leave it in one."
            )
        self.by_image |= dict.fromkeys(keys, part)

    def of(self, path: Path) -> str | None:
        """The part of an image or of its labels; ``None``: the folders do not say; ``""``: of none."""
        by_folder, key = part_of(path.relative_to(self.root)), _key(path)
        if key in self.by_image:
            return self.by_image[key]
        if path.resolve() in self.lists or (key in self.unnamed and by_folder in (None, *self.parts)):
            return ""
        return by_folder


def base_of(file: Path, content: Mapping[str, Any]) -> Path:
    """The folder that paths in ``data.yaml`` start from: its ``path`` where that is there and has the training part, else its own."""
    base, training = file.parent / str(content.get("path") or "."), _entries(content).get("train")
    return base if training and _places(file, "train", training, (base,), base) else file.parent


def _entries(content: Mapping[str, Any]) -> dict[str, Any]:
    """What ``data.yaml`` says of each part that it names."""
    found = {part: next((content[name] for name in names if content.get(name)), None) for part, names in PARTS.items()}
    return {part: entry for part, entry in found.items() if entry}


def _key(path: Path) -> Path:
    """The same for an image and its labels: without ending, and ``labels``, the last on the way, is ``images``."""
    parts = list(path.resolve().with_suffix("").parts)
    last = next((place for place in range(len(parts) - 2, -1, -1) if parts[place] in ("images", "labels")), None)
    if last is not None:
        parts[last] = "images"
    return Path(*parts)


def _places(file: Path, part: str, entry: Any, bases: tuple[Path, ...], root: Path) -> list[Path]:
    """The folders and lists of an entry that are there, below the root; Roboflow writes them from a folder that is one further down."""
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(each, str) for each in entries):
        raise UserError(f"{file}: {part!r} must be a folder, a list of images (.txt), or a list of such.")
    found = []
    for each in entries:
        words = each.replace("\\", "/")
        tried = [Path(os.path.abspath(base / word)) for base in bases for word in (words, words.removeprefix("../"))]
        found += [path for path in tried if path.exists() and path.is_relative_to(os.path.abspath(root))][:1]
    return found


def _images(place: Path, root: Path) -> list[Path]:
    """The images of a folder, or of a list: of its lines, paths from the list's folder or from the root."""
    is_image = OtherFiles()
    if place.is_dir():
        return [path for path in sorted(place.rglob("*")) if path.is_file() and is_image(path)]
    try:
        lines = [line.strip().replace("\\", "/") for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{place} cannot be read: {error}; it must be a text in UTF-8.") from None
    found = []
    for line in lines:
        image = next((path for base in (place.parent, root) if (path := base / line).is_file()), None)
        if image is None:
            raise UserError(f"{place} names {line}, which is not there.")
        found.append(image)
    return found

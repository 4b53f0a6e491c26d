"""``data=yolo``: images with a text file each, as Ultralytics has them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.annotated import files_below, finished, size_of
from visionlora.data.sources.source import Source
from visionlora.data.sources.yolo_parts import NamedParts, base_of
from visionlora.tasks.detect.boxes import Box, Boxes, Faults
from visionlora.tasks.run_lengths import run_lengths
from visionlora.tasks.segment.mask_classes import read_classes

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
"""Files that may have the names of the classes, in the root or one or two folders below it."""
NO_LABELS = ("classes.txt", "README.txt", "README.dataset.txt", "README.roboflow.txt", "train.txt", "val.txt", "test.txt")
"""Files of text that are no labels."""


def yolo(config: DataConfig) -> Source:
    """Images with ``labels``: a line ``class x y width height`` for each object, in shares of the image, x and y of its middle; or the
    corners of a polygon, which is the mask of the object, with the box around it. Folders may be ``images/PART`` beside ``labels/PART``,
    or ``PART/images`` beside ``PART/labels``, or what ``data.yaml`` names as parts. It has the names of the classes, or ``classes.txt``
    has. An image without a file has no objects.

    Raises:
        UserError: no images, no names, a line that cannot be read, a class that has no name.
    """
    root, described = Path(config.root), None
    if root.suffix in (".yaml", ".yml") and root.is_file():
        root, described = root.parent, root
    file = described or _description(root)
    content = _content(file) if file is not None and file.suffix in (".yaml", ".yml") else {}
    if described is not None:
        root = base_of(described, content)
    named = NamedParts(file, content, root).of if file is not None and content else None
    found = files_below(root, ".txt", NO_LABELS, named=named)
    if not any(found.annotations.values()):
        raise UserError(f"data.root={root} has images and no .txt file with labels.")
    if file is None:
        raise UserError(f"data.root={root} has neither data.yaml nor classes.txt, which would name the classes.")
    classes = _names(file, content) if content else read_classes(file)
    points = content.get("kpt_shape") is not None
    faults = Faults(f"data.root={root}")
    parts = {}
    for part, images in found.images.items():
        files = {path.stem: path for path in found.annotations.get(part, [])}
        if not files and part != "train":  # a test part without labels, as contests have them
            if not process_rank():
                print(f"data.root={root}: {counted(len(images), 'image')} of the {part} part without labels, left out.", file=sys.stderr)
            continue
        strange = sorted(set(files) - set(images))
        if strange:
            raise UserError(f"{files[strange[0]]} has no image of the same name in the {part} part ({len(strange)} such files).")
        objects = {stem: _objects(files[stem], classes, points) for stem in images if stem in files}
        labels = [
            _label(faults, objects[stem], files[stem].name, path) if stem in objects else faults.of_image([], path.name)
            for stem, path in images.items()
        ]
        parts[part] = Images(labels, [path.relative_to(root).as_posix() for path in images.values()], list(images.values()))
    return finished(root, classes, parts, faults)


def _label(faults: Faults, objects: list[tuple[int, list[float]]], file: str, image: Path) -> Boxes:
    """The objects of an image; of those that are polygons, the masks as well."""
    boxes = [(kind, _box(values)) for kind, values in objects]
    if not objects or any(len(values) == 4 for _, values in objects):
        return faults.of_image(boxes, file)
    width, height = size_of(image)
    return faults.of_image(boxes, file, [_mask(values, width, height) for _, values in objects], (height, width))


def _mask(values: list[float], width: int, height: int) -> bytes | None:
    """The run lengths of a polygon; ``None`` where it cannot be painted, which only Mask R-CNN asks for."""
    try:
        return run_lengths([[value * (height if place % 2 else width) for place, value in enumerate(values)]], (height, width))
    except ValueError:
        return None


def _description(root: Path) -> Path | None:
    """The first file that has the names of the classes; LabelImg writes ``classes.txt`` beside the labels."""
    below = (path for name in NAMES for pattern in (name, f"*/{name}", f"*/*/{name}") for path in sorted(root.glob(pattern)))
    return next(below, None)


def _content(file: Path) -> dict[str, Any]:
    """What ``data.yaml`` says.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} cannot be read: it must be a mapping that has 'names'.")
    return content


def _names(file: Path, content: dict[str, Any]) -> list[str]:
    """The names of the classes, in the order of their numbers.

    Raises:
        UserError: there are none.
    """
    names = content.get("names")
    if isinstance(names, dict):
        by_number = {str(number): name for number, name in names.items()}
        if set(by_number) != {str(number) for number in range(len(names))}:
            raise UserError(f"{file}: the numbers of the classes are not 0 to {len(names) - 1}.")
        names = [by_number[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise UserError(f"{file}: 'names' must be the names of the classes, each once.")
    return [str(name) for name in names]


def _objects(file: Path, classes: list[str], points: bool) -> list[tuple[int, list[float]]]:
    """Class and numbers of each line: four of a box, after which there may be key points (``points``), or the corners of a polygon."""
    found = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read: {error}; it must be a text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            kind, values = int(float(words[0])), [float(word) for word in words[1:]]
        except (ValueError, OverflowError):
            raise UserError(f"{file}, line {number}: {line.strip()[:80]!r} is no row of numbers: class, x, y, width, height.") from None
        values = values[:4] if points else values
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise UserError(f"{file}, line {number}: it has {len(words)} numbers; a box has 5, a polygon a class and pairs of them.")
        if not 0 <= kind < len(classes):
            raise UserError(f"{file}, line {number}: class {kind} has no name; the classes are 0 to {len(classes) - 1}.")
        found.append((kind, values))
    return found


def _box(values: list[float]) -> Box:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])

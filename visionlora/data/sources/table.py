"""``data=table``: a file with a row for each image."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.processes import process_rank
from visionlora.common.text import counted, not_there
from visionlora.data.config import DataConfig
from visionlora.data.files import FilesBelow, files_in
from visionlora.data.images import Images
from visionlora.data.opening import extensions
from visionlora.data.sources.folders import PARTS
from visionlora.data.sources.table_file import rows_of
from visionlora.tasks.cells import Cells

LABELS = ("label", "labels", "class")
"""Headings of the label column where ``data.label`` names none."""
PART_COLUMNS = ("part", "split", "subset", "partition")
"""Headings of the column with the part of each row."""
OTHERS = (*PART_COLUMNS, "group", "weight")
"""Headings that are no labels."""
PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


@dataclass(frozen=True)
class Table:
    """Images whose labels are cells still: the task makes labels of them.

    Args:
        parts: the images by part; their labels mean nothing yet.
        cells: of their labels.
    """

    parts: dict[str, Images]
    cells: Cells


@dataclass
class _Part:
    names: list[str] = field(default_factory=list)
    cells: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def table(config: DataConfig) -> Table:
    """The rows of ``config.root``, a CSV, TSV or Parquet file: a column with the image's path below the file's folder, one or several
    with its labels, and, where they are there, ``part`` or ``split`` (train, val, test), ``group`` (never in two parts) and ``weight``
    (how often an image comes in training). Where all paths lack the ending of their files, it is found.

    Raises:
        UserError: no file, a column that is not there, images that are not, a part or weight that is none, an image named twice.
    """
    file = Path(config.root)
    if not file.is_file():
        what = "is a folder: give the table's file" if file.is_dir() else "is not there"
        raise UserError(f"data.root={file} {what}, as in data=table data.root=labels.csv.")
    rows = rows_of(file)
    heading = next(rows, None)
    if heading is None:
        raise UserError(f"data.root={file}: the table is empty.")
    heading = [cell.strip() for cell in heading]
    image = _image_column(file, heading, config)
    labels = [heading.index(name) for name in label_columns(str(file), heading, config, heading[image])]
    places = {name: place for place, name in enumerate(heading) if place not in labels}  # a weight may be that of what is in the image
    part = next((places[name] for name in PART_COLUMNS if name in places), None)
    group, weight = places.get("group"), places.get("weight")
    if weight is not None:
        tell_weights(str(file))
    found = {name: _Part() for name in PARTS}
    words: dict[str, str] = {}  # equal cells are kept once: there may be millions
    width = max(image, *labels, part or 0, group or 0, weight or 0) + 1
    for line, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) < width or any(row[len(heading) :]):
            raise UserError(f"{file}, line {line}: it has {counted(len(row), 'cell')}, where the heading has {len(heading)}.")
        into = found["train" if part is None else _part_of(f"{file}, line {line}, column {heading[part]!r}", row[part])]
        into.names.append(_plain(row[image].strip()))
        into.cells.append(tuple(words.setdefault(row[column], row[column]) for column in labels))
        into.lines.append(line)
        if weight is not None:
            into.weights.append(weight_of(f"{file}, line {line}", row[weight]))
        if group is not None:
            into.groups.append(words.setdefault(row[group], row[group]))
    known = {name: rows for name, rows in found.items() if rows.names}
    if "train" not in known:
        raise UserError(f"{file} has no rows{' of the part train' * (part is not None and bool(known))}.")
    below = file.parent / (config.images or "")
    _check_names(file, below, known)
    if "test" not in known and "val" in known:
        known["test"] = known.pop("val")  # as with class folders: the one held-out part gives the final figure
    check_groups(str(file), {name: rows.groups for name, rows in known.items()})
    images = {
        name: Images([None] * len(rows.names), rows.names, FilesBelow(below, rows.names), groups=rows.groups, weights=rows.weights)
        for name, rows in known.items()
    }
    of_labels = {name: rows.cells for name, rows in known.items()}
    lines = {name: rows.lines for name, rows in known.items()}
    cells = Cells(str(file), tuple(heading[column] for column in labels), of_labels, lines, config.separator)
    return Table(images, cells)


def _plain(name: str) -> str:
    """A path below the folder, without ``./``: one image has one name."""
    return PurePosixPath(name).as_posix() if name.startswith("./") or "/./" in name or "//" in name else name


def _image_column(file: Path, heading: Sequence[str], config: DataConfig) -> int:
    from visionlora.data.inputs import COLUMNS

    if config.image is not None:
        return column_of(file, heading, config.image, "data.image")
    lower = [name.lower() for name in heading]
    found = next((lower.index(name) for name in COLUMNS if name in lower), None)
    if found is None:
        raise UserError(
            f"{file} has no column 'image' with the paths of the images; its columns are {listed(heading)}: name it by data.image=COLUMN."
        )
    return found


def label_columns(where: str, columns: Sequence[str], config: DataConfig, image: str, of_classes: Sequence[str] = ()) -> list[str]:
    """The headings of the labels: those of ``data.label``, else ``label`` or ``labels``, the only column of classes, or the only one left.

    Args:
        where: the source in words.
        columns: all headings.
        config: with ``data.label``.
        image: heading of the images.
        of_classes: headings of columns whose cells the source knows to be classes.

    Raises:
        UserError: a column is not there, or it is not said which it is.
    """
    if config.label is not None:
        for name in config.label:
            column_of(where, columns, name, "data.label")
        return list(config.label)
    named = [name for name in LABELS if name in columns]
    others = [name for name in columns if name != image and name not in OTHERS]
    found = next((some for some in (named, of_classes, others) if len(some) == 1), None)
    if found is None:
        raise UserError(
            f"{where} does not say which column has the labels; its columns are {listed(columns)}: name it by data.label=COLUMN."
        )
    return list(found)


def column_of(file: Path | str, heading: Sequence[str], name: str, key: str) -> int:
    """The place of a column.

    Raises:
        UserError: there is none of this name.
    """
    if name not in heading:
        raise UserError(f"{key}={name}: {file} has no such column; its columns are {listed(heading)}.{did_you_mean(name, list(heading))}")
    return list(heading).index(name)


def listed(heading: Sequence[str]) -> str:
    """The first of the headings in words."""
    return ", ".join(repr(name) for name in heading[:20]) + ("…" if len(heading) > 20 else "")


def _part_of(where: str, cell: str) -> str:
    found = PART_NAMES.get(cell.strip().lower())
    if found is None:
        raise UserError(f"{where}: {cell!r} is no part; it is train, val or test. A column that says something else has another name.")
    return found


def _check_names(file: Path, below: Path, parts: dict[str, _Part]) -> None:
    """See that every image is named once and is there; where they are without an ending, complete their names."""
    seen: dict[str, int] = {}
    for rows in parts.values():
        for name, line in zip(rows.names, rows.lines, strict=True):
            if not name:
                raise UserError(f"{file}, line {line}: it names no image.")
            if (before := seen.setdefault(name, line)) != line:
                raise UserError(f"{file}, lines {before} and {line} have the same image, {name}.")
    missing = [name for rows in parts.values() for name in FilesBelow(below, rows.names).missing()]
    if missing and len(missing) == len(seen):
        full = _with_endings(below, missing)
        for rows in parts.values():
            rows.names = [full.get(name, name) for name in rows.names]
        missing = [name for name in missing if name not in full]
    if missing:
        named = not_there([f"{name} (line {seen[name]})" for name in missing], between="; ")
        hint = " data.images=DIR says where they are." if len(missing) == len(seen) else ""
        raise UserError(f"{file} names {named}.{hint}")


def _with_endings(below: Path, names: Sequence[str]) -> dict[str, str]:
    """The names, of those that are images but for their ending, with it."""
    known: dict[str, dict[str, str]] = {}
    found, endings = {}, extensions()
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder not in known:
            paths = [Path(file) for file in sorted(files_in(below / folder))]
            known[folder] = {path.stem: path.suffix for path in paths if path.suffix.lower() in endings}
        if last in known[folder]:
            found[name] = name + known[folder][last]
    return found


def tell_weights(source: str) -> None:
    """Say that the weights are read; once, where there are several processes."""
    if not process_rank():
        print(f"{source}: in training, images come as often as their 'weight' says.", file=sys.stderr)


def weight_of(where: str, cell: Any) -> float:
    """The weight that a cell has.

    Raises:
        UserError: it is no number from 0 up; ``where`` begins the sentence.
    """
    try:
        weight = float(cell)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{where}, column 'weight': {cell!r} is no number from 0 up.")
    return weight


def check_groups(source: str, groups: Mapping[str, Sequence[str]]) -> None:
    """See that no group is in two parts.

    Args:
        source: in words.
        groups: of each image, by part.

    Raises:
        UserError: one is.
    """
    where: dict[str, str] = {}
    for part, names in groups.items():
        for group in dict.fromkeys(names):  # in the order of the rows, so that the first one told is always the same
            if (before := where.setdefault(group, part)) != part:
                raise UserError(f"{source}: the group {group!r} is in the parts {before} and {part}; a group is in one only.")

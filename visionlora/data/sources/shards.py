"""``data=webdataset``: tar archives in which an image and its label are files of one name, as WebDataset writes them."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.opening import extensions
from visionlora.data.sources.folders import PARTS
from visionlora.data.sources.remote import fetched
from visionlora.data.sources.server import NAMES
from visionlora.data.sources.table import LABELS, Table, check_groups, tell_weights, weight_of
from visionlora.data.stores import TarStore
from visionlora.tasks.cells import Cells

COLUMNS = ("group", "weight")
"""Keys of a sample's JSON beside its label."""
TEXTS = ("cls", "txt", "label")
"""Endings of files that hold a label as text, the first that there is."""


def shards(config: DataConfig) -> Table:
    """The images of ``config.root``: one tar, a pattern, or a folder of shards, ``{train,val,test}/*.tar`` or ``train-000.tar`` and so on;
    or a URL of these.

    A sample is the files of one name up to its first dot: an image, and its label in ``.cls``, ``.txt`` or ``.label``, or in ``.json``
    under ``data.label``, by default ``label`` or ``labels``; there may be its ``group`` and ``weight`` too, as in a table.
    Where each image lies is read once; then they are read in any order, so that an epoch is exact with any number of workers and processes.

    Raises:
        UserError: no shards, one that is cut short, a sample without a label, no images.
    """
    files = _files(str(fetched(config.root, config.download, config.kept_gb)) if config.of_url else config.root)
    names = class_names_beside(next(iter(files.values()))[0].parent)
    parts: dict[str, Images] = {}
    cells: dict[str, list[tuple[str, ...]]] = {}
    columns = tuple(config.label) if config.label else ("label",)
    for part, paths in files.items():
        store = TarStore(paths)
        samples: dict[str, dict[str, str]] = {}
        for name in store.places:
            folder, _, base = name.rpartition("/")
            key, _, ending = base.partition(".")
            samples.setdefault(f"{folder}/{key}", {})[ending.lower()] = name
        images, labels, more = list[str](), list[tuple[str, ...]](), list[dict[str, Any]]()
        for key, endings in samples.items():
            image = next((name for ending, name in endings.items() if f".{ending}" in extensions()), None)
            if image is not None:
                known = _json(store.read(endings["json"]), key, config) if "json" in endings else {}
                images.append(image)
                labels.append(_label(store, key, endings, known, config, names))
                more.append({column: known[column] for column in COLUMNS if column in known})
        if not images:
            raise UserError(f"data.root={config.root}: the shards of the part {part} have no images.")
        parts[part] = Images([None] * len(images), images, store=store, **_columns(images, more, config))
        cells[part] = labels
    check_groups(f"data.root={config.root}", {part: images.groups for part, images in parts.items() if images.groups})
    if parts.get("train", Images([], [])).weights:
        tell_weights(f"data.root={config.root}")
    if "train" not in parts:
        raise UserError(f"data.root={config.root} has shards of {' and '.join(parts)}, and none of train.")
    if "test" not in parts and "val" in parts:
        parts["test"], cells["test"] = parts.pop("val"), cells.pop("val")
    numbers = {part: range(1, len(rows) + 1) for part, rows in cells.items()}
    return Table(parts, Cells(f"data.root={config.root}", columns, cells, numbers, config.separator))


def _files(root: str) -> dict[str, list[Path]]:
    """The shards of each part, in order."""
    path = Path(root)
    if path.is_dir():
        found = {part: sorted((path / part).glob("*.tar")) for part in PARTS}
        flat = sorted(path.glob("*.tar"))
        named = {part: [file for file in flat if file.name.startswith(part)] for part in PARTS}
        if not any(found.values()):
            found = named if named["train"] else {"train": flat}
    else:
        found = {"train": [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(root))]}
    found = {part: files for part, files in found.items() if files}
    if not found:
        raise UserError(f"data.root={root}: there are no shards (*.tar) there.")
    return found


def class_names_beside(folder: Path) -> list[str]:
    """The names of classes that ``classes.txt`` in ``folder``, or in the one above, has; none without it."""
    beside = next((place / NAMES for place in (folder, folder.parent) if (place / NAMES).is_file()), None)
    return [] if beside is None else [line.strip() for line in beside.read_text(encoding="utf-8").splitlines() if line.strip()]


def _label(
    store: TarStore, key: str, endings: dict[str, str], known: dict[str, Any], config: DataConfig, names: Sequence[str]
) -> tuple[str, ...]:
    """The label cells of a sample, as text; ``known`` is what its file of JSON has."""
    if (found := _of_json(known, config)) is not None:
        return tuple(named(cell, names) for cell in found)
    ending = next((ending for ending in TEXTS if ending in endings), None)
    if ending is None:
        raise UserError(
            f"data.root={config.root}: the sample {key} has no label: a file .cls or .txt, or {config.label or 'label'} in .json."
        )
    return (named(store.read(endings[ending]).decode("utf-8", errors="replace").strip(), names),)


def _json(content: bytes, key: str, config: DataConfig) -> dict[str, Any]:
    try:
        known = json.loads(content)
    except ValueError as error:
        raise UserError(f"data.root={config.root}: the .json of the sample {key} is damaged: {error}.") from None
    return known if isinstance(known, dict) else {}


def _columns(images: Sequence[str], known: Sequence[dict[str, Any]], config: DataConfig) -> dict[str, Any]:
    """The groups and weights of images, where they have such.

    Raises:
        UserError: some have and others not, or a weight is no number from 0 up.
    """
    found: dict[str, Any] = {}
    for column in set(COLUMNS).difference(config.label or ()):
        there = [column in row for row in known]
        if any(there) and not all(there):
            raise UserError(f"data.root={config.root}: {images[there.index(False)]} has no {column!r}, which others have.")
        if all(there):
            found[f"{column}s"] = [row[column] for row in known]
    if "groups" in found:
        found["groups"] = [str(group) for group in found["groups"]]
    if "weights" in found:
        where = f"data.root={config.root}"
        found["weights"] = [weight_of(f"{where}: {name}", cell) for name, cell in zip(images, found["weights"], strict=True)]
    return found


def _of_json(known: dict[str, Any], config: DataConfig) -> list[str] | None:
    columns = config.label or [name for name in LABELS if name in known][:1]
    if not columns or any(column not in known for column in columns):
        return None
    values = [known[column] for column in columns]
    return [config.separator.join(map(str, value)) if isinstance(value, list) else str(value) for value in values]


def named(cell: str, names: Sequence[str]) -> str:
    """A label, which may be the number of a class; one that is a name already stays, also where it looks like a number."""
    return names[int(cell)] if cell not in names and cell.isdecimal() and int(cell) < len(names) else cell

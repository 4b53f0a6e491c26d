"""``data=hf``: a data set of Hugging Face's library ``datasets``: saved on the disk, Parquet files, or of the hub."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.hub import unless_unreachable
from visionlora.common.processes import process_rank
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.table import PART_NAMES, Table, check_groups, column_of, label_columns, listed, tell_weights, weight_of
from visionlora.tasks.cells import Cells

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` leaves in a folder: of a ``DatasetDict``, of a ``Dataset``."""


class Rows:
    """The image cells of one split, as bytes of a file; nothing is decoded.

    Args:
        rows: of the split, with the column ``image`` alone, not decoded.
        image: heading of the column.
        split: name of the split, which the names of the images begin with.
    """

    def __init__(self, rows: Dataset, image: str, split: str) -> None:
        import pyarrow.compute as compute

        self.rows, self.image, self.split = rows, image, split
        cells = rows.data.column(image)
        self.sizes: np.ndarray = compute.binary_length(compute.struct_field(cells, "bytes")).fill_null(0).to_numpy()
        files = compute.struct_field(cells, "path").to_pylist()
        self.names = [f"{split}/{row:08}{f'-{PurePath(file).name}' if file else ''}" for row, file in enumerate(files)]

    def read(self, name: str) -> bytes:
        """The bytes of one image."""
        cell = self.rows[self._row(name)][self.image]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise UnreadableError("its cell is empty")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        file = Path(cell["path"])
        if not file.is_file():  # a device or a pipe would be read without end
            raise UnreadableError(f"the data set has its path alone, and there is no file {file}")
        try:
            return file.read_bytes()
        except OSError as error:
            raise UnreadableError(f"the data set has its path alone, {file}: {error.strerror or error}") from None

    def size(self, name: str) -> int:
        """How many bytes it has; 0 where the data set has a path alone."""
        return int(self.sizes[self._row(name)])

    def stamp(self, name: str) -> str:
        """The library's fingerprint of the data set, and the row."""
        return f"{self.rows._fingerprint}\0{name}"

    def _row(self, name: str) -> int:
        return int(name[len(self.split) + 1 :].partition("-")[0])


def hugging_face(config: DataConfig) -> Table:
    """The data set ``config.root``: a folder that ``save_to_disk`` wrote, a folder, file or pattern of Parquet files, or the name of one on
    the hub, ``OWNER/NAME`` or ``OWNER/NAME:SUBSET``.

    Its splits are the parts: train, validation or val, test. The image is ``data.image``, by default the only column of images; its label
    is ``data.label``, by default ``label`` or ``labels``, or the only column that is left: names of classes, or numbers, as they are.
    The columns ``group`` and ``weight`` are those of a table.

    Raises:
        UserError: the library is not installed, nothing there, no connection, a column that is not there, no split of training images.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data=hf reads with the library datasets: pip install 'visionlora[hf]'.") from None
    where = f"data.root={config.root}"
    splits = _known(where, _splits(config))
    first = splits["train"][1]
    image = _image(where, first, config)
    of_classes = [name for name, feature in first.features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = label_columns(where, first.column_names, config, image, of_classes)
    images: dict[str, Images] = {}
    cells: dict[str, list[tuple[str, ...]]] = {}
    for part, (split, rows) in splits.items():
        for name in (image, *labels):
            column_of(f"{where}, split {split}", rows.column_names, name, "data.image" if name == image else "data.label")
        with _told(config):
            undecoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            store = Rows(undecoded, image, split)
        groups = list(map(str, rows.select_columns(["group"])[:]["group"])) if "group" in rows.column_names else []
        images[part] = Images([None] * len(rows), store.names, store=store, groups=groups, weights=_weights(where, part, rows, labels))
        cells[part] = _cells(rows, labels, config.separator)
    check_groups(where, {part: found.groups for part, found in images.items()})
    lines = {part: range(len(found)) for part, found in images.items()}
    order = _names(first.features[labels[0]]) if len(labels) == 1 else ()
    return Table(images, Cells(where, tuple(labels), cells, lines, config.separator, "row {line} of {part}", tuple(order)))


def _splits(config: DataConfig) -> Mapping[str, Dataset]:
    """The splits by their names."""
    import datasets

    root = Path(config.root)
    with _told(config):
        if any((root / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(root))
            return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
        files = _parquet_files(config.root)
        if files:
            by_split = {name: [str(file) for file in some] for name, some in files.items()}
            return dict(datasets.DatasetDict.from_parquet(by_split))
    if not config.of_hub:
        raise UserError(
            f"data.root={config.root} is no folder of save_to_disk, has no Parquet files, and is no name of the hub, OWNER/NAME."
        )
    name, _, subset = config.root.partition(":")
    with _told(config), unless_unreachable(download=config.download):
        found = datasets.load_dataset(name, subset or None)
    return dict(found)


def _parquet_files(root: str) -> dict[str, list[Path]]:
    """Parquet files by the split that a folder around them, or the beginning of their name, says: ``train/0.parquet``,
    ``data/train-00000-of-00002.parquet``; of those that say nothing, all are training images.
    """
    path = Path(root)
    files = (
        sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(root))]
    )
    found: dict[str, list[Path]] = {}
    for file in (file for file in files if file.suffix == ".parquet"):
        said = (file.parent.name, re.split(r"[-_.]", file.name)[0])
        found.setdefault(next((PART_NAMES[word] for word in said if word in PART_NAMES), ""), []).append(file)
    unsaid = found.pop("", [])
    if unsaid and found:
        raise UserError(f"{unsaid[0]}: its name does not say which split it is of, as train-00000.parquet does and others here do.")
    return {"train": unsaid} if unsaid else found


@contextmanager
def _told(config: DataConfig) -> Iterator[None]:
    """What the library raises as one sentence."""
    import datasets.exceptions
    import pyarrow

    bars = not datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(f"data.root={config.root}: {_first_line(error)}{_HOW}") from None
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        trouble, of_hub = disk_trouble(error).rstrip("."), _HOW if config.of_hub else "."
        raise UserError(
            f"data.root={config.root} cannot be read by the library datasets: {trouble or _first_line(error)}{of_hub}"
        ) from None
    finally:
        if bars:
            datasets.enable_progress_bars()


_HOW = (
    "; without a connection, load it where there is one, write it with its save_to_disk(DIR), bring the folder here and give data.root=DIR."
)


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip() or str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")[:300]


def _known(where: str, splits: Mapping[str, Dataset]) -> dict[str, tuple[str, Dataset]]:
    """By part, the name of its split, and the split."""
    found: dict[str, tuple[str, Dataset]] = {}
    others = []
    for name, rows in splits.items():
        part = PART_NAMES.get(name.lower())
        if part is None:
            others.append(name)
        elif part in found:
            raise UserError(f"{where} has the splits {found[part][0]} and {name}, which are both the part {part}; leave one out.")
        elif len(rows):
            found[part] = name, rows
    if not found and len(others) == 1:
        found, others = {"train": (others[0], splits[others[0]])}, []
    if "train" not in found or not len(found["train"][1]):
        raise UserError(f"{where} has no rows of a split named train; its splits are {listed(list(splits))}.")
    if others and not process_rank():
        print(f"{where}: the splits {listed(others)} are not read; train, validation and test are.", file=sys.stderr)
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")  # as with class folders: the one held-out part gives the final figure
    return found


def _image(where: str, rows: Dataset, config: DataConfig) -> str:
    """The heading of the images."""
    import datasets

    if config.image is not None:
        column_of(where, rows.column_names, config.image, "data.image")
        return config.image
    of_images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    found = of_images if len(of_images) == 1 else [name for name in ("image", "img") if name in rows.column_names][:1]
    if not found:
        raise UserError(
            f"{where} does not say which column has the images; its columns are {listed(rows.column_names)}: name it by data.image=COLUMN."
        )
    return found[0]


def _names(feature: Any) -> Sequence[str]:
    """Names of the classes that a column is of, or the items of its lists; empty where it does not say."""
    return getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or ()


def _cells(rows: Dataset, labels: Sequence[str], separator: str) -> list[tuple[str, ...]]:
    """The label cells of each row as text."""
    table = rows.select_columns(list(labels))[:]
    columns = [map(_as_text(_names(rows.features[name]), separator), table[name]) for name in labels]
    return list(zip(*columns, strict=True))


def _weights(where: str, part: str, rows: Dataset, labels: Sequence[str]) -> list[float]:
    """How often each image comes in training; empty where nothing says so."""
    if "weight" not in rows.column_names or "weight" in labels:
        return []
    if part == "train":
        tell_weights(where)
    return [weight_of(f"{where}, row {row} of {part}", value) for row, value in enumerate(rows.select_columns(["weight"])[:]["weight"])]


def _as_text(names: Sequence[str], separator: str) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return separator.join(map(text, value))
        if value is None or (names and value == -1):  # so the hub's test splits without labels have it
            return ""
        return names[value] if names else str(value)

    return text

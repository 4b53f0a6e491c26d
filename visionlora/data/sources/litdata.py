"""``data=litdata``: chunks that Lightning's library ``litdata`` has written, in any order, as files are."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.reading import read_json
from visionlora.common.text import in_a_line
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.folders import PARTS
from visionlora.data.sources.shards import class_names_beside, named
from visionlora.data.sources.table import Table, check_groups, column_of, label_columns, listed, tell_weights, weight_of
from visionlora.data.stores import file_stamp
from visionlora.tasks.cells import Cells

INDEX = "index.json"
OF_IMAGES = ("jpeg", "image", "pil", "bytes")
"""Names of litdata's kinds of fields that an image may be in."""


class Chunks:
    """The images of one folder of chunks, read by ``litdata`` as bytes of a file; nothing is decoded.

    Args:
        folder: with ``index.json``.
        image: the field of the images.
        sizes: bytes of each image.
    """

    def __init__(self, folder: Path, image: str, sizes: Sequence[int]) -> None:
        self.folder, self.image, self.sizes = folder, image, sizes
        self._opened = threading.local()

    def read(self, name: str) -> bytes:
        """The bytes of one image."""
        known = getattr(self._opened, "rows", None)
        if known is None or known[0] != os.getpid():
            known = self._opened.rows = os.getpid(), opened(self.folder, whole=True)
        try:
            content = fields(known[1][_row(name)])[self.image]
        except Exception as error:  # the library raises whatever it meets in damaged bytes
            raise UnreadableError(f"its chunk is damaged: {in_a_line(error)}") from None
        return bytes(content)

    def size(self, name: str) -> int:
        """How many bytes it has."""
        return self.sizes[_row(name)]

    def stamp(self, name: str) -> str:
        """The index, when it was changed, and the row."""
        return file_stamp(self.folder / INDEX, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "image": self.image, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=threading.local())


def chunks(config: DataConfig) -> Table:
    """The data set ``config.root``: ``{train,val,test}/index.json`` beside their chunks, or one ``index.json``, which is all train.

    A sample is a dictionary, or a tuple whose fields are called 0, 1 and so on. The image is ``data.image``, by default the only field
    that can be one; its label is ``data.label``, by default ``label`` or ``labels``, or the only field that is left. The fields ``group``
    and ``weight`` are those of a table.

    Raises:
        UserError: the library is not installed, nothing there, compressed chunks, one that is cut short, a field that is not there.
    """
    root = Path(config.root)
    where = f"data.root={root}"
    folders = {part: root / part for part in PARTS if (root / part / INDEX).is_file()}
    folders = folders or ({"train": root} if (root / INDEX).is_file() else {})
    if "train" not in folders:
        raise UserError(f"{where} has no {INDEX} of litdata, neither there nor in a folder train.")
    if "test" not in folders and "val" in folders:
        folders["test"] = folders.pop("val")  # as with class folders: the one held-out part gives the final figure
    images: dict[str, Images] = {}
    cells: dict[str, list[tuple[str, ...]]] = {}
    columns: list[str] = []
    for part, folder in folders.items():
        kinds = _kinds(folder)
        image = _image(where, kinds, config)
        columns = label_columns(where, list(kinds), config, image)
        names = class_names_beside(folder)
        rows = _rows(folder, image)
        cells[part] = [tuple(named(_text(row[column], config.separator), names) for column in columns) for row in rows]
        weights: list[float] = []
        if "weight" in kinds and "weight" not in columns:
            weights = [weight_of(f"{where}, row {number} of {part}", row["weight"]) for number, row in enumerate(rows)]
        if weights and part == "train":
            tell_weights(where)
        groups = [str(row["group"]) for row in rows] if "group" in kinds else []
        store = Chunks(folder, image, [row[image] for row in rows])
        keys = [f"{part}/{number:08}" for number in range(len(rows))]
        images[part] = Images([None] * len(rows), keys, store=store, groups=groups, weights=weights)
    check_groups(where, {part: found.groups for part, found in images.items()})
    lines = {part: range(len(found)) for part, found in images.items()}
    return Table(images, Cells(where, tuple(columns), cells, lines, config.separator, "row {line} of {part}"))


def opened(folder: Path, whole: bool) -> Any:
    """A ``StreamingDataset``, whose images are bytes where ``whole``, else how many bytes they have: then they are not read."""
    from litdata import StreamingDataset

    return StreamingDataset(str(folder), shuffle=False, serializers=_serializers(whole), batch_decode=False)


def fields(sample: Any) -> Mapping[str, Any]:
    """A sample as a dictionary."""
    return sample if isinstance(sample, Mapping) else {str(place): value for place, value in enumerate(sample)}


@cache
def _serializers(whole: bool) -> dict[str, Any]:
    try:
        from litdata.streaming.serializers import PILSerializer, Serializer
    except ImportError:
        raise UserError("data=litdata reads with the library litdata: pip install 'visionlora[litdata]'.") from None

    class Undecoded(Serializer):
        def serialize(self, data: Any) -> tuple[bytes, str | None]:
            raise NotImplementedError

        def deserialize(self, data: bytes) -> Any:
            return bytes(data) if whole else len(data)

        def can_serialize(self, data: Any) -> bool:
            return False

    class Pixels(Undecoded):
        """Of images of PIL's, that are no files: as one."""

        def deserialize(self, data: bytes) -> Any:
            if not whole:
                return len(data)
            stream = io.BytesIO()
            image: Image.Image = PILSerializer.deserialize(data)
            image.save(stream, "PNG", compress_level=0)
            return stream.getvalue()

    return {"jpeg": Undecoded(), "image": Undecoded(), "bytes": Undecoded(), "pil": Pixels()}


def _kinds(folder: Path) -> dict[str, str]:
    """By field, litdata's name of its kind; the chunks are seen to be there and whole.

    Raises:
        UserError: they are not, or cannot be read in any order.
    """
    index = read_json(folder / INDEX)
    known, formats = index.get("config") or {}, (index.get("config") or {}).get("data_format")
    if not isinstance(formats, list) or not formats:
        raise UserError(f"{folder / INDEX} does not say what the fields of its samples are; write the chunks anew with litdata.optimize.")
    if known.get("compression") or known.get("encryption"):
        raise UserError(f"{folder}: its chunks are compressed or encrypted; write them without: images are compressed already.")
    for chunk in index.get("chunks") or ():
        file = folder / str(chunk["filename"])
        if not file.is_file() or file.stat().st_size < int(chunk["chunk_bytes"]):
            raise UserError(f"{file} {'was cut short' if file.is_file() else 'is not there'}, which {INDEX} names; copy it again.")
    first = fields(_rows_of(folder)[0])
    if len(first) != len(formats):
        raise UserError(f"{folder}: its samples are nested; they must be flat, as in {{'image': …, 'label': …}}.")
    return dict(zip(first, (str(kind).partition(":")[0] for kind in formats), strict=True))


def _rows_of(folder: Path) -> Any:
    rows = opened(folder, whole=False)
    if not len(rows):
        raise UserError(f"{folder} has no samples.")
    return rows


def _rows(folder: Path, image: str) -> list[dict[str, Any]]:
    """Every sample, in the place of its image how many bytes it has."""
    rows, found = _rows_of(folder), []
    try:
        for number in range(len(rows)):
            row = dict(fields(rows[number]))
            size = row[image]
            found.append({**row, image: len(size) if isinstance(size, bytes) else int(size)})  # of plain bytes the library gives all
        return found
    except Exception as error:  # the library raises whatever it meets in damaged bytes
        raise UserError(f"{folder} cannot be read by the library litdata: {in_a_line(error)}.") from None


def _image(where: str, kinds: Mapping[str, str], config: DataConfig) -> str:
    """The field of the images."""
    if config.image is not None:
        column_of(where, list(kinds), config.image, "data.image")
        return config.image
    found = [name for name, kind in kinds.items() if kind in OF_IMAGES]
    if len(found) != 1:
        raise UserError(
            f"{where} does not say which field has the images; its fields are {listed(list(kinds))}: name it by data.image=FIELD."
        )
    return found[0]


def _text(value: Any, separator: str) -> str:
    if isinstance(value, list | tuple):
        return separator.join(map(str, value))
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _row(name: str) -> int:
    return int(name.rpartition("/")[2])

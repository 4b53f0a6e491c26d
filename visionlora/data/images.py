"""Labelled images, in files or in memory, opened one at a time."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import first_of
from visionlora.data.opening import decode_image, extensions, open_image, to_mode
from visionlora.data.stores import Store, file_stamp

Unreadable = dict[str, str]
"""Name of an image -> why it cannot be read."""


def left_out(unreadable: Mapping[str, str], most: int = 10) -> str:
    """The first of the unreadable images in words, with the reasons."""
    names = sorted(unreadable)
    return first_of([f"{name} ({unreadable[name]})" for name in names], most, between="; ")


class FilesBelow(Sequence[Path]):
    """Paths of files below a folder, made when they are asked for: millions of them would take gigabytes.

    Args:
        root: the folder.
        names: paths below it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return FilesBelow(self.root, self.names[index]) if isinstance(index, slice) else self.root / self.names[index]

    def subset(self, indices: Sequence[int]) -> FilesBelow:
        """The paths at ``indices``."""
        return FilesBelow(self.root, [self.names[i] for i in indices])

    def missing(self) -> list[str]:
        """Names of those that are no files. Every folder is listed once, which is many times as fast as asking for each file."""
        known: dict[str, set[str]] = {}
        found = []
        for name in self.names:
            folder, _, last = name.rpartition("/")
            if folder not in known:
                known[folder] = files_in(self.root / folder)
            if last not in known[folder]:
                found.append(name)
        return found


def files_in(folder: Path) -> set[str]:
    """Names of the files in a folder; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


@dataclass(frozen=True)
class Images:
    """Images with labels.

    Args:
        labels: of each image, as the task has them: for a classifier the index of its class.
        names: what tells each image from the others: its path below the root, or its position.
        paths: their files; empty where there are none.
        arrays: uint8 ``(N, H, W)`` or ``(N, H, W, C)``, where they are held in memory; then the files are not opened.
        store: reads them by their names where they are no files of their own.
        groups: of each image, such as the patient it is of; a split leaves every group whole. Empty where there are none.
        weights: how often each image comes in training, in proportion. Empty where all come equally often.
    """

    labels: list[Any]
    names: list[str]
    paths: Sequence[Path] = ()
    arrays: np.ndarray | None = None
    store: Store | None = None
    groups: Sequence[str] = ()
    weights: Sequence[float] = ()

    @classmethod
    def of_arrays(cls, arrays: np.ndarray, labels: Sequence[Any], prefix: str = "") -> Self:
        """Images in memory."""
        return cls(
            [label.item() if hasattr(label, "item") else label for label in labels],
            [f"{prefix}{i}" for i in range(len(labels))],
            (),
            arrays,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def columns_of(self, index: int) -> dict[str, Any]:
        """``group`` and ``weight`` of an image, where it has such: as a table has them, or the sample of a shard."""
        group = {"group": self.groups[index]} if self.groups else {}
        return group | ({"weight": self.weights[index]} if self.weights else {})

    @property
    def in_memory(self) -> bool:
        return self.arrays is not None

    def open(self, index: int, channels: int, detail: int | None = None) -> Image.Image:
        """Image ``index`` with ``channels`` channels (1, 3 or 4); ``detail`` as for ``open_image``.

        Raises:
            UnreadableError: the file cannot be read as an image.
        """
        if self.arrays is not None:
            return to_mode(Image.fromarray(self.arrays[index]), channels)
        if self.store is not None:
            return decode_image(self.store.read(self.names[index]), channels, detail)
        return open_image(self.paths[index], channels, detail)

    def bytes_of(self, index: int) -> int:
        """How many bytes image ``index`` has where it is kept; 0 where it is not there."""
        if self.store is not None:
            return self.store.size(self.names[index])
        return self.paths[index].stat().st_size if self.paths[index].is_file() else 0

    def stamp(self, index: int) -> str | None:
        """What tells the file of image ``index`` from others, and from what it was before it was changed; ``None`` in memory.

        Raises:
            UnreadableError: it is not there.
        """
        if self.arrays is not None:
            return None
        return self.store.stamp(self.names[index]) if self.store is not None else file_stamp(self.paths[index])

    def without(self, unreadable: Unreadable) -> Self:
        """The images that are not among the unreadable ones."""
        kept = [index for index, name in enumerate(self.names) if name not in unreadable] if unreadable else self.labels
        return self if len(kept) == len(self) else self.subset(kept)

    def subset(self, indices: Sequence[int]) -> Self:
        """The images at ``indices``, in that order."""
        return replace(
            self,
            labels=[self.labels[i] for i in indices],
            names=[self.names[i] for i in indices],
            paths=self._some_paths(indices),
            arrays=None if self.arrays is None else self.arrays[list(indices)],
            groups=[self.groups[i] for i in indices] if self.groups else (),
            weights=[self.weights[i] for i in indices] if self.weights else (),
        )

    def _some_paths(self, indices: Sequence[int]) -> Sequence[Path]:
        if isinstance(self.paths, FilesBelow):
            return self.paths.subset(indices)
        return [self.paths[i] for i in indices] if self.paths else ()


Pictures = Images
"""The name of earlier versions."""
SMALL = 64
"""Pixels a side up to which files of one size are read once and kept in memory."""
LONG = 8
"""Times as long as wide that they are at most: as a batch they are resized before the middle is cut out."""
KEPT = 2**30
"""Bytes that such files may take."""
CHECKED = 2**25
"""Bytes of files up to which all of them are decoded before a training, to find what cannot be read at once: a second or two."""


def into_memory(pictures: Images, channels: int, unreadable: Unreadable) -> Images:
    """The same images in memory as uint8, where they are files of one small size; else as they are.

    What cannot be read is left out of those in memory, and noted in ``unreadable``.
    """
    if pictures.in_memory:
        return pictures
    found: Unreadable = {}  # threads that are stopped would leave it to chance what is noted
    pending = iter(range(len(pictures)))
    first = next((image for index in pending if (image := _opened(pictures, index, channels, None, found))), None)
    if first is None or max(first.size) > min(SMALL, LONG * min(first.size)):
        return pictures
    if len(pictures) * first.width * first.height * channels > KEPT:
        return pictures
    kept: list[int] = []
    arrays = np.empty((len(pictures), *np.asarray(first).shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda i: _opened(pictures, i, channels, None, found), range(len(pictures)))):
            if image is not None and image.size != first.size:
                pool.shutdown(cancel_futures=True)
                return pictures
            if image is not None:
                arrays[len(kept)] = np.asarray(image)
                kept.append(index)
    unreadable.update(found)
    return replace(pictures.subset(kept), arrays=arrays[: len(kept)])


def checked(
    pictures: Images,
    channels: int,
    detail: int,
    unreadable: Unreadable,
    most: int | None = CHECKED,
    *,
    fits: Callable[[Any, Image.Image], object] | None = None,
) -> Images:
    """The images without those that cannot be read, where their files have at most so many bytes; else as they are, unopened.

    Args:
        pictures: the images.
        channels: see ``Images.open``.
        detail: see ``Images.open``.
        unreadable: what is found is noted here.
        most: bytes; ``None`` for any number.
        fits: is shown each label with its image, and raises ``UnreadableError`` where they do not go together.
    """
    if pictures.in_memory:
        return pictures
    size = 0
    for index in range(len(pictures)):
        size += pictures.bytes_of(index)
        if most is not None and size > most:
            return pictures
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda i: _opened(pictures, i, channels, detail, unreadable, fits) is None, range(len(pictures))))
    return pictures.without(unreadable)


def _opened(
    pictures: Images,
    index: int,
    channels: int,
    detail: int | None,
    unreadable: Unreadable,
    fits: Callable[[Any, Image.Image], object] | None = None,
) -> Image.Image | None:
    """The image, or ``None`` and a note."""
    try:
        image = pictures.open(index, channels, detail)
        if fits is not None:
            fits(pictures.labels[index], image)
        return image
    except UnreadableError as error:
        unreadable[pictures.names[index]] = error.why
        return None


class OtherFiles(Counter[str]):
    """Counts the files that are not looked at, by their endings. Called with a path, it says whether the file is an image, and counts
    it if not.
    """

    def __call__(self, path: str | Path) -> bool:
        name = Path(path).name
        ending = Path(name).suffix.lower()
        if ending in extensions() and not name.startswith("."):  # such as the ._cat.jpg that macOS puts into archives
            return True
        self["hidden" if name.startswith(".") else ending or "without an ending"] += 1
        return False

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {ending}" for ending, count in self.most_common())

    def tell(self, where: str) -> None:
        """Say in one line what is left out, if anything is."""
        if self and not process_rank():
            print(f"{where}: files that are no images, or of a format that is not read, are left out: {self}.", file=sys.stderr)


def find_images(path: str | Path, key: str = "input") -> list[Path]:
    """The image itself, or every image below a folder, sorted; a line says what else is there.

    Args:
        path: a file or a folder.
        key: of the config, for the message.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{key}={path}: there is no such file or folder.")
    is_picture = OtherFiles()
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and is_picture(p)]
    if not found:
        raise UserError(f"{key}={path}: no images below this folder{f' ({is_picture} are none)' * bool(is_picture)}.")
    is_picture.tell(f"{key}={path}")
    return found

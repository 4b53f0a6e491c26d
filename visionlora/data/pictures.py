"""Labelled pictures, in files or in memory, opened one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from visionlora.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> PIL's mode."""


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels.

    Args:
        labels: index of the class of each picture.
        names: what tells each picture from the others: its path below the root, or its position.
        paths: files, or empty when ``arrays`` has the pictures.
        arrays: uint8 ``(N, H, W)`` or ``(N, H, W, C)``, or ``None``.
    """

    labels: list[int]
    names: list[str]
    paths: Sequence[Path] = ()
    arrays: np.ndarray | None = None

    @classmethod
    def of_arrays(cls, arrays: np.ndarray, labels: Sequence[int], prefix: str = "") -> Self:
        """Pictures in memory."""
        return cls([int(label) for label in labels], [f"{prefix}{i}" for i in range(len(labels))], (), arrays)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        return self.arrays is not None

    def open(self, index: int, channels: int, detail: int | None = None) -> Image.Image:
        """Picture ``index`` with ``channels`` channels (1, 3 or 4); ``detail`` as for ``open_picture``.

        Raises:
            UserError: the file cannot be read as a picture.
        """
        if self.arrays is not None:
            return to_mode(Image.fromarray(self.arrays[index]), channels)
        return open_picture(self.paths[index], channels, detail)

    def subset(self, indices: Sequence[int]) -> Self:
        """The pictures at ``indices``, in that order."""
        return replace(
            self,
            labels=[self.labels[i] for i in indices],
            names=[self.names[i] for i in indices],
            paths=[self.paths[i] for i in indices] if self.arrays is None else (),
            arrays=None if self.arrays is None else self.arrays[list(indices)],
        )


SMALL = 64
"""Pixels a side up to which files of one size are read once and kept in memory."""
KEPT = 2**30
"""Bytes that such files may take."""


def into_memory(pictures: Pictures, channels: int) -> Pictures:
    """The same pictures in memory as uint8, where they are files of one small size; else as they are.

    Raises:
        UserError: a file cannot be read as a picture.
    """
    if pictures.in_memory or not pictures.paths:
        return pictures
    first = open_picture(pictures.paths[0], channels)
    if max(first.size) > SMALL or len(pictures) * first.width * first.height * channels > KEPT:
        return pictures
    arrays = np.empty((len(pictures), *np.asarray(first).shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda path: open_picture(path, channels), pictures.paths)):
            if image.size != first.size:
                return pictures
            arrays[index] = np.asarray(image)
    return replace(pictures, paths=(), arrays=arrays)


def open_picture(path: Path, channels: int, detail: int | None = None) -> Image.Image:
    """The picture in a file, upright (EXIF), with ``channels`` channels.

    Args:
        path: of the file.
        channels: 1, 3 or 4.
        detail: pixels a side that suffice: a larger JPEG is decoded to a half, a quarter or an eighth of its size, many times
            as fast (Pillow's draft mode), as long as both its sides keep so many.

    Raises:
        UserError: it cannot be read as a picture; the message names the file.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", UserWarning)  # of a palette's transparency
            if detail is not None:
                image.draft(None, (detail, detail))
            return to_mode(ImageOps.exif_transpose(image), channels)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "no picture format was recognised" if "cannot identify" in str(error) else str(error)
        raise UserError(f"cannot read the picture {path}: {reason}; mend or remove the file.") from None


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 1, 3 or 4 channels of 8 bits."""
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(MODES[channels])


def find_pictures(path: str | Path, key: str = "input") -> list[Path]:
    """The picture itself, or every picture below a folder, sorted.

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
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    if not found:
        raise UserError(f"{key}={path}: no pictures below this folder ({', '.join(e[1:] for e in IMG_EXTENSIONS)}).")
    return found

"""Labelled images, in files or in memory, opened one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from visionlora.common.text import first_of
from visionlora.data.files import FilesBelow
from visionlora.data.opening import decode_image, open_image, to_mode
from visionlora.data.stores import Store, file_stamp

Unreadable = dict[str, str]
"""Name of an image -> why it cannot be read."""


def left_out(unreadable: Mapping[str, str], most: int = 10) -> str:
    """The first of the unreadable images in words, with the reasons."""
    names = sorted(unreadable)
    return first_of([f"{name} ({unreadable[name]})" for name in names], most, between="; ")


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

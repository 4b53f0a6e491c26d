"""A mask that is painted of the masks of objects: the label of an image for ``task=segment``. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from visionlora.tasks.placed import IGNORED
from visionlora.tasks.run_lengths import area, decoded

Painted = tuple[int, bytes]
"""Index of the output, or ``IGNORED``, and COCO's compressed run lengths."""


@dataclass(frozen=True)
class PaintedMask:
    """A mask of classes, of which the masks of the objects are kept: painted when it is asked for, it takes no memory.

    Args:
        size: height and width.
        objects: in the order in which they are painted over each other; the rest is output 0.
        path: where they are from, in words.
    """

    size: tuple[int, int]
    objects: tuple[Painted, ...]
    path: str

    @classmethod
    def of(cls, size: tuple[int, int], ignored: Iterable[bytes], objects: Iterable[Painted], path: str) -> PaintedMask:
        """What is of no class first, over it the objects, the largest first: so a small one that lies over a large one stays."""
        first = [(IGNORED, counts) for counts in ignored]
        return cls(size, (*first, *sorted(objects, key=lambda one: -area(one[1], size))), path)

    def read(self) -> np.ndarray:
        """Index of the output of each pixel, or ``IGNORED``: uint8 ``(H, W)``."""
        mask = np.zeros(self.size, np.uint8)
        for kind, counts in self.objects:
            mask[decoded(counts, self.size) > 0] = kind
        return mask

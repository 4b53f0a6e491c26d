"""The classes of one image's pixels. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionlora.tasks.colours import colour_table, overlaid, saved
from visionlora.tasks.run_lengths import encoded

TOLD = 4
"""Classes that are told of an image."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """A class for each pixel; ``error`` says why there is none.

    Args:
        path: of the image.
        names: of the classes.
        mask: index of the class of each pixel, uint8 ``(height, width)``.
        values: the number of each class in a file; empty for the indices themselves.
        error: why the image cannot be read.
        shares: of the pixels, that each class has.
    """

    path: str
    names: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    values: tuple[int, ...] = ()
    error: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, names: Sequence[str], mask: np.ndarray, values: Sequence[int] = ()) -> Segmented:
        """With the shares of the classes counted."""
        counts = np.bincount(mask.ravel(), minlength=len(names))
        return cls(path, tuple(names), mask, tuple(values), shares=dict(zip(names, (counts / counts.sum()).tolist(), strict=True)))

    def row(self, most: int) -> dict[str, Any]:
        """The share of the pixels that each class has, under its name."""
        return {name: self.shares.get(name) for name in self.names}

    def cells(self) -> tuple[str, ...]:
        """The classes with most pixels, a line each."""
        return (self.brief().replace(", ", "\n"),)

    def brief(self) -> str:
        """The classes with most pixels in a few words."""
        largest = sorted(self.shares.items(), key=lambda item: -item[1])[:TOLD]
        return self.error or ", ".join(f"{name} {share:.0%}" for name, share in largest if share > 0)

    def image(self) -> Image.Image:
        """The mask as an image whose pixels are the numbers of the classes, shown in colours."""
        assert self.mask is not None
        numbers = np.array(self.values, np.uint8)[self.mask] if self.values else self.mask
        made = Image.fromarray(numbers, "L").convert("P")
        made.frombytes(numbers.tobytes())
        made.putpalette(colour_table(self.values or tuple(range(len(self.names)))))
        return made

    def left(self, folder: Path, name: str) -> tuple[Segmented, dict[str, Any]]:
        """Write ``masks/NAME.png`` and ``overlays/NAME.jpg``; the same prediction without its mask, which may be large, and the entry of
        ``masks.json``: the pixels of each class that is there as COCO's compressed run lengths.
        """
        if self.mask is None:
            return self, {"image": self.path, "error": self.error}
        saved(self.image(), folder, "masks", f"{name}.png")
        saved(overlaid(self.path, self.mask, len(self.names)), folder, "overlays", f"{name}.jpg")
        objects = [
            {"category": self.names[number], "area": int((self.mask == number).sum()), "segmentation": encoded(self.mask == number)}
            for number in np.unique(self.mask).tolist()
        ]
        return Segmented(self.path, self.names, None, self.values, shares=self.shares), {"image": self.path, "objects": objects}

    @staticmethod
    def summary(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, Any]:
        """Name and content of the file with the entries of all images."""
        return "masks.json", {"classes": list(names), "images": list(entries)}

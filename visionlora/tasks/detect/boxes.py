"""The objects in an image: the label for ``task=detect``. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from visionlora.common.text import counted

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the image's width and height."""
SMALLEST = 1e-6
"""Share of a side below which a box has no area."""


@dataclass(frozen=True)
class Boxes:
    """What is in an image.

    Args:
        boxes: of the objects.
        classes: index of the class of each.
        masks: COCO's compressed run lengths of each; empty where they have boxes alone.
        size: height and width of the image by its file of labels; zeros where that does not say.
    """

    boxes: tuple[Box, ...]
    classes: tuple[int, ...]
    masks: tuple[bytes, ...] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def bare(self) -> bool:
        """Whether there are objects that have boxes alone."""
        return len(self.masks) < len(self.boxes)


@dataclass
class Faults:
    """What is wrong with boxes, counted, with the first place of each kind.

    Args:
        source: that they are of, in words.
    """

    source: str
    found: dict[str, list[str]] = field(default_factory=dict)
    boxes: int = 0
    bare: int = 0
    images: int = 0

    def note(self, what: str, where: str) -> None:
        """Count one, ``where`` it is in words."""
        self.found.setdefault(what, []).append(where)

    def of_image(
        self, objects: Iterable[tuple[int, Box]], file: str, masks: Sequence[bytes | None] = (), size: tuple[int, int] = (0, 0)
    ) -> Boxes:
        """The objects of an image, mended: corners in order, clipped to the image, without those that have no area.

        Args:
            objects: class and box of each.
            file: the image in words.
            masks: of each, where they have any; an image of which one object has none has none.
            size: height and width of the image by its file.
        """
        boxes, classes, kept = [], [], []
        for number, (kind, (left, top, right, bottom)) in enumerate(objects, start=1):
            self.boxes += 1
            where = f"{file}, object {number}"
            if not all(abs(value) < float("inf") for value in (left, top, right, bottom)):
                self.note("without finite corners, left out", where)
                continue
            if left > right or top > bottom:
                self.note("with swapped corners, set right", where)
                left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
            inside = tuple(min(max(value, 0.0), 1.0) for value in (left, top, right, bottom))
            if inside[2] - inside[0] < SMALLEST or inside[3] - inside[1] < SMALLEST:
                self.note("without area or outside the image, left out", where)
                continue
            if max(abs(a - b) for a, b in zip(inside, (left, top, right, bottom), strict=True)) > 0.005:
                self.note("reaching beyond the image, clipped", where)
            boxes.append((inside[0], inside[1], inside[2], inside[3]))
            classes.append(kind)
            kept.append(masks[number - 1] if masks else None)
        self.images += 1
        self.bare += not boxes
        there = tuple(mask for mask in kept if mask is not None)
        return Boxes(tuple(boxes), tuple(classes), there if len(there) == len(boxes) else (), size)

    def tell(self, rank: int = 0, of: str = "box") -> None:
        """Say in a line what there was, ``of`` boxes or objects."""
        if rank or not (self.found or self.bare):
            return
        said = [f"{len(places):,} {what} (first: {places[0]})" for what, places in self.found.items()]
        if self.bare:
            said.append(f"{counted(self.bare, 'image')} without objects, which {'is' if self.bare == 1 else 'are'} kept")
        print(f"{self.source}: of {counted(self.boxes, of, 'boxes' if of == 'box' else '')}, {'; '.join(said)}.", file=sys.stderr)

"""``data=coco`` with ``task=segment``: the objects of COCO's files painted into masks of classes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.annotated import finished
from visionlora.data.sources.coco import Annotation, CocoFile, box_of, crowds_in, parts_of, used_classes
from visionlora.data.sources.source import Source
from visionlora.tasks.detect.boxes import Faults
from visionlora.tasks.run_lengths import area, counts_of, run_lengths
from visionlora.tasks.segment.painted import Painted, PaintedMask

BACKGROUND = "background"
"""The class of what no object covers: one of the data's, if it has one of this name, else one more."""
MOST = 254
"""Classes that a mask has numbers for beside the background."""


class _Outlines:
    """The masks of the objects of a data set, and how many have one.

    Args:
        faults: where what is wrong is noted.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults, self.there, self.first_without = faults, 0, ""

    def counts(self, one: Annotation, file: CocoFile, size: tuple[int, int]) -> bytes | None:
        """The run lengths of an object in an image of ``size = (height, width)``; ``None`` where it has a box alone.

        Raises:
            UserError: what it has is no mask.
        """
        where = f"{file.path}: annotation {one.get('id')}"
        if not one.get("segmentation"):
            self.first_without = self.first_without or where
            return None
        try:
            found = run_lengths(one["segmentation"], size)
        except ValueError as error:
            raise UserError(f"{where} {error}.") from None
        self.there += 1
        return found


def masked_coco(config: DataConfig) -> Source:
    """What ``coco`` reads, as masks: of polygons and run lengths, the largest object painted first. Crowds have no class, and neither
    have the boxes of objects without a mask, but where another object is.

    Raises:
        UserError: as for boxes, or an object's mask cannot be read, or none has one.
    """
    root = Path(config.root)
    found = parts_of(root)
    named = [name for one in found.values() for name in one.file.categories.values() if name.lower() == BACKGROUND]
    background = named[0] if named else BACKGROUND
    classes = [background, *(name for name in used_classes(found) if name != background)]
    if len(classes) > MOST + 1:
        raise UserError(f"data.root={root} has {len(classes) - 1} classes; a mask has numbers for {MOST} and the background.")
    number = {name: place for place, name in enumerate(classes)}
    faults = Faults(f"data.root={root}")
    outlines, parts = _Outlines(faults), {}
    for part, one in found.items():
        labels = []
        for image, path in zip(one.file.images, one.paths, strict=True):
            width, height = one.file.size(image, path)
            labels.append(_painted(one.file, image, (height, width), number, outlines))
        parts[part] = Images(labels, one.names, one.paths)
    if not outlines.there and outlines.first_without:
        raise UserError(f"{outlines.first_without} has no segmentation, nor has any other; task=detect learns boxes.")
    if crowds := crowds_in(found):
        faults.found["of crowds (iscrowd), ignored"] = ["iscrowd=1"] * crowds
    return finished(root, classes if len(classes) > 1 else [], parts, faults, "object")


def _painted(file: CocoFile, image: Annotation, size: tuple[int, int], number: dict[str, int], outlines: _Outlines) -> PaintedMask:
    """The mask of an image."""
    where, faults = file.where(image), outlines.faults
    ignored: list[bytes] = []
    objects: list[Painted] = []
    for one in file.crowds[int(image["id"])]:
        counts = outlines.counts(one, file, size)
        ignored.append(_box(one, file, size) if counts is None else counts)
    for place, one in enumerate(file.objects[int(image["id"])], start=1):
        faults.boxes += 1
        counts = outlines.counts(one, file, size)
        if counts is None:
            faults.note("with a box and no segmentation, whose boxes are ignored", f"{where}, object {place}")
            ignored.append(_box(one, file, size))
        elif not area(counts, size):
            faults.note("without area or outside the image, left out", f"{where}, object {place}")
        else:
            objects.append((number[file.kind(one)], counts))
    faults.images += 1
    faults.bare += not file.objects[int(image["id"])]
    return PaintedMask.of(size, ignored, objects, where)


def _box(one: Annotation, file: CocoFile, size: tuple[int, int]) -> bytes:
    """The pixels in the box of an object, as run lengths."""
    height, width = size
    left, top, right, bottom = box_of(one, file.path, width, height)
    mask = np.zeros(size, np.uint8)
    mask[max(math.floor(top * height), 0) : math.ceil(bottom * height), max(math.floor(left * width), 0) : math.ceil(right * width)] = 1
    return counts_of(mask)

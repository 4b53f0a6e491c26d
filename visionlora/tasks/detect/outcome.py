"""A model's boxes for one part of the data, and what they are worth."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from visionlora.common.console import console
from visionlora.common.text import counted
from visionlora.tasks.detect import plots
from visionlora.tasks.detect.draws import OfClass, by_class, mean_precision
from visionlora.tasks.detect.layout import COLUMNS, detections
from visionlora.tasks.detect.matching import Matched, matched
from visionlora.tasks.detect.metrics import average_precision, masks_as_coco
from visionlora.tasks.drawn import DrawnOutcome
from visionlora.tasks.gallery import page
from visionlora.tasks.placed import FULL_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 48
"""Images on the page."""
SIZES = {"map_small": "small (up to 32² pixels)", "map_medium": "medium (up to 96²)", "map_large": "large"}
"""Average precision by the size of the objects in their images."""


class DetectOutcome(DrawnOutcome):
    """Detections ``(N, KEPT, 6)`` or a detector's outputs, and objects ``(N, most, 5)``; with masks there are more columns."""

    draws = 500

    @cached_property
    def found(self) -> Tensor:
        """Class, score and box of what is found, ``(N, KEPT, 6)``, and its mask, where it has one."""
        return detections(self.outputs, len(self.task.names))

    @cached_property
    def sides(self) -> list[float]:
        """Pixels of the longer side of each image."""
        opened = (self.images.open(index, 3, detail=32) for index in range(len(self.targets)))
        return [float(max(image.info.get(FULL_SIZE, image.size))) for image in opened]

    @cached_property
    def coco(self) -> dict[str, Tensor]:
        """What COCO's evaluation says, with ``map_per_class`` and ``precision (overlaps, recalls, classes, sizes, most)``."""
        metric = average_precision(each_class=True)
        metric.extended_summary = True
        for found, true, side in zip(self.found, self.targets, self.sides, strict=True):
            found, true = found[found[:, 0] >= 0], true[true[:, 0] >= 0]
            own = {"boxes": found[:, 2:COLUMNS] * side, "scores": found[:, 1], "labels": found[:, 0].long()}
            metric.update([own], [{"boxes": true[:, 1:5] * side, "labels": true[:, 0].long()}])
        return metric.compute()  # type: ignore[no-any-return]

    @cached_property
    def masks(self) -> dict[str, Tensor] | None:
        """What COCO's evaluation says of the masks, at the size of the view; ``None`` where there are none."""
        if self.found.shape[2] == COLUMNS or self.targets.shape[2] == 5:
            return None
        metric = average_precision(each_class=True, of="segm")
        for found, true in zip(self.found, self.targets, strict=True):
            metric.update(*masks_as_coco(found[None], true[None], len(self.task.names)))
        return metric.compute()  # type: ignore[no-any-return]

    def metrics(self) -> dict[str, float]:
        """``SPLIT/map``, ``SPLIT/map50``, the same of masks, the interval of the first, and ``SPLIT/unreadable``."""
        low, high = self.interval()
        found = {"map": float(self.coco["map"]), "map50": float(self.coco["map_50"]), "map_low": low, "map_high": high}
        if self.masks is not None:
            found |= {"mask_map": float(self.masks["map"]), "mask_map50": float(self.masks["map_50"])}
        return {f"{self.split}/{key}": max(value, 0.0) for key, value in found.items()} | {f"{self.split}/unreadable": len(self.unreadable)}

    @cached_property
    def classes(self) -> list[OfClass]:
        """Every box that is found, by class, and which of them are objects."""
        return by_class(self.found, self.targets)

    def of_draw(self, times: np.ndarray) -> float:
        """Mean average precision where image ``i`` is there ``times[i]`` times."""
        return mean_precision(self.classes, times)

    @cached_property
    def matches(self) -> list[Matched]:
        """What is found at the threshold of the task, against what is there."""
        least = self.task.threshold  # type: ignore[attr-defined]
        return [matched(found, true, least) for found, true in zip(self.found, self.targets, strict=True)]

    @cached_property
    def errors(self) -> np.ndarray:
        """Objects that are missed and boxes that are none, of each image, ``(N,)``."""
        return np.array([len(one.missed) + int((~one.hits).sum()) for one in self.matches])

    def row(self, index: int) -> dict[str, Any]:
        """How many objects there are, are found, are missed, and boxes that are none."""
        one = self.matches[index]
        return {"objects": one.objects, "found": int(one.hits.sum()), "missed": len(one.missed), "false": int((~one.hits).sum())}

    def report(self) -> dict[str, dict[str, float]]:
        """Average precision (mean, and at half overlap), and the number of objects, of each class that is there."""
        classes = self.coco["classes"].reshape(-1).tolist()
        each, precision = self.coco["map_per_class"].reshape(-1), self.coco["precision"]
        objects = self.targets[..., 0].flatten()
        table = {}
        for place, kind in enumerate(int(kind) for kind in classes):
            at_half = precision[0, :, place, 0, -1]
            known = at_half[at_half > -1]
            table[self.task.names[kind]] = {
                "map": max(float(each[place]), 0.0),
                "map50": float(known.mean()) if len(known) else 0.0,
                "objects": int((objects == kind).sum()),
            }
        if self.masks is not None:  # where nothing is found, torchmetrics says nothing of the classes
            kinds, values = (self.masks.get(key, torch.empty(0)).reshape(-1).tolist() for key in ("classes", "map_per_class"))
            of_masks = dict(zip(kinds, values, strict=False))
            for kind, name in enumerate(self.task.names):
                if name in table:
                    table[name]["mask_map"] = max(of_masks.get(kind, 0.0), 0.0)
        return table

    def details(self) -> dict[str, Any]:
        """``classes.json``: the report; ``coco.json``: every figure of COCO's evaluation."""
        known = {key: float(value) for key, value in self.coco.items() if isinstance(value, torch.Tensor) and value.numel() == 1}
        return {"classes.json": self.report(), "coco.json": {key: value for key, value in known.items() if value > -1 and key != "classes"}}

    def plots(self) -> dict[str, Figure | None]:
        """``precision_recall`` of each class, and the images that are ``most_wrong``, with their boxes."""
        return {"precision_recall": plots.precision_recall(self), "most_wrong": plots.most_wrong(self)}

    def most_wrong(self, most: int) -> list[int]:
        """Indices of the images with most errors."""
        return [int(index) for index in np.argsort(-self.errors, kind="stable")[:most] if self.errors[index]]

    def page(self) -> str | None:
        chosen = self.most_wrong(SHOWN)
        if not chosen:
            return None
        sections = {"Most errors": [(index, self.words(index)) for index in chosen]}
        return page(self.split, f"The {len(chosen)} of {len(self.errors):,} images with most errors.", self.images, sections)

    def words(self, index: int) -> str:
        """What is wrong with an image."""
        row = self.row(index)
        return f"{counted(row['objects'], 'object')}, {row['missed']} missed, {row['false']} false"

    def tell(self) -> None:
        """Print the precision of each class, and by size."""
        table = Table(title="Classes", title_justify="left")
        of_masks = ("mask mAP",) if self.masks is not None else ()
        for column in ("class", "mAP", "mAP50", *of_masks, "objects"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, row in self.report().items():
            mask = [f"{row['mask_map']:.1%}"] if of_masks else []
            table.add_row(escape(name), f"{row['map']:.1%}", f"{row['map50']:.1%}", *mask, f"{row['objects']:,}")
        console.print(table)
        by_size = [f"{words} {float(self.coco[key]):.1%}" for key, words in SIZES.items() if float(self.coco[key]) > -1]
        if by_size:
            console.print(f"mAP by size: {', '.join(by_size)}.", highlight=False)

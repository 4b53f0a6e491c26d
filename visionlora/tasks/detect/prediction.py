"""The objects that a model sees in one image. Free of torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from visionlora.tasks.colours import LONGEST, bordered, colour, opened, saved
from visionlora.tasks.run_lengths import area, decoded

Found = tuple[int, float, tuple[float, float, float, float]]
"""Class, score, and left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Detected:
    """Objects, likeliest first; ``error`` says why there are none.

    Args:
        path: of the image.
        names: of the classes.
        objects: that are likely enough.
        masks: COCO's compressed run lengths of each; empty where they have boxes alone.
        size: height and width of the image of the masks.
        error: why the image cannot be read.
    """

    path: str
    names: tuple[str, ...] = ()
    objects: tuple[Found, ...] = ()
    masks: tuple[bytes, ...] = ()
    size: tuple[int, int] = (0, 0)
    error: str = ""

    def row(self, most: int) -> dict[str, Any]:
        """How many objects there are, how many of each class, and each with its score and box, as JSON."""
        counts = Counter(kind for kind, _, _ in self.objects)
        each = {f"{name} (count)": None if self.error else counts[number] for number, name in enumerate(self.names)}
        return {"objects": None if self.error else len(self.objects), **each, "boxes": None if self.error else json.dumps(self.as_json())}

    def as_json(self) -> list[dict[str, Any]]:
        """Each object with the name of its class, score, and box in pixels."""
        return [
            {"label": self.names[kind], "score": round(score, 4), "box": [round(value, 1) for value in box]}
            for kind, score, box in self.objects
        ]

    def cells(self) -> tuple[str, ...]:
        """How many of each class, a line each."""
        return (self.brief().replace(", ", "\n"),)

    def brief(self) -> str:
        """How many of each class, in a few words."""
        counts = Counter(self.names[kind] for kind, _, _ in self.objects)
        return self.error or ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

    def left(self, folder: Path, name: str) -> tuple[Detected, dict[str, Any]]:
        """Write ``overlays/NAME.jpg``, the image with its boxes and the borders of its masks; the prediction itself, and its entry of
        ``coco.json``.
        """
        if not self.error and Path(self.path).is_file():
            image = opened(self.path)
            for (kind, _, _), counts in zip(self.objects, self.masks, strict=False):  # there may be no masks
                bordered(image, decoded(counts, self.size), colour(kind))
            saved(boxed(image, self.objects, self.names), folder, "overlays", f"{name}.jpg")
        return self, {"image": self.path, "objects": self.objects, "masks": self.masks, "size": self.size, "error": self.error}

    @staticmethod
    def summary(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, Any]:
        """Name and content of the file with the entries of all images: COCO's, which ``data=coco`` reads. An image that could not be read
        is left out: there it would be one without objects.
        """
        images: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for number, entry in enumerate((entry for entry in entries if not entry["error"]), start=1):
            images.append({"id": number, "file_name": entry["image"]})
            for place, (kind, score, (left, top, right, bottom)) in enumerate(entry["objects"]):
                box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
                own = {"id": len(rows) + 1, "image_id": number, "category_id": kind + 1, "bbox": box}
                own |= {"area": round(box[2] * box[3], 2), "iscrowd": 0, "score": round(score, 5)}
                if entry["masks"]:
                    counts, size = entry["masks"][place], entry["size"]
                    segmentation = {"size": list(size), "counts": counts.decode("ascii")}
                    own |= {"segmentation": segmentation, "area": area(counts, size)}
                rows.append(own)
        categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(names)]
        return "coco.json", {"images": images, "annotations": rows, "categories": categories}


def boxed(image: Image.Image, objects: Sequence[Found], names: Sequence[str]) -> Image.Image:
    """An image of at most ``LONGEST`` pixels a side with boxes, each with its class and score."""
    share = min(1.0, LONGEST / max(image.size))
    drawn = image.resize((max(round(image.width * share), 1), max(round(image.height * share), 1)))
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(max(drawn.size) / 400))
    for kind, score, box in reversed(objects):
        left, top, right, bottom = (value * share for value in box)
        pen.rectangle((left, top, right, bottom), outline=colour(kind), width=width)
        text = f"{names[kind]} {score:.2f}" if score < 1 else names[kind]
        place = pen.textbbox((left, max(top - 12, 0)), text)
        pen.rectangle(place, fill=colour(kind))
        pen.text((left, max(top - 12, 0)), text, fill="white")
    return drawn

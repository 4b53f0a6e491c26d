"""Boxes around the objects of street scenes with masks, as COCO has them: a set with small objects, on which nothing was chosen before.

    python benchmarks/street_boxes.py --root MASKS --out DIR     # MASKS as data=masks takes it, with parts train, val and test
    python -m visionlora.train task=detect data=coco data.root=DIR

A box is that of a connected piece of a class: cars or pedestrians in front of each other are one object.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.street_objects import asked, scenes

CLASSES = ("sign", "car", "pedestrian", "bicyclist")
FEWEST = 64
"""Pixels of an object, at least."""


def boxes(mask: np.ndarray) -> list[list[int]]:
    """Left, top, width and height of each piece of ``mask (H, W)``, bool."""
    pieces, count = ndimage.label(mask)
    sizes = np.asarray(ndimage.sum(mask, pieces, range(1, count + 1)))
    places = [place for place, size in zip(ndimage.find_objects(pieces), sizes, strict=True) if size >= FEWEST]
    return [[cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start] for rows, cols in places]


def main() -> None:
    """Write ``OUT/annotations/PART.json`` and copy the images to ``OUT/PART``."""
    root, out, names = asked(str(__doc__))
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part, path, scene, mask in scenes(root):
        (out / part).mkdir(exist_ok=True)
        shutil.copy(path, out / part / path.name)
        of_part = found.setdefault(part, {"images": [], "annotations": [], "categories": []})
        images, annotations, number = of_part["images"], of_part["annotations"], len(of_part["images"])
        images.append({"id": number, "file_name": path.name, "width": scene.width, "height": scene.height})
        for kind, name in enumerate(CLASSES):
            for box in boxes(mask == names.index(name)):
                annotations.append({"id": len(annotations), "image_id": number, "category_id": kind, "bbox": box})
    for part, content in found.items():
        content["categories"] = [{"id": kind, "name": name} for kind, name in enumerate(CLASSES)]
        (out / f"annotations/{part}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()

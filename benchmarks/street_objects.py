"""Objects cut out of street scenes with masks, as class folders: a set of photographs on which nothing of the recipe was chosen.

    python benchmarks/street_objects.py --root MASKS --out DIR     # MASKS as data=masks takes it, with parts train, val and test
    python benchmarks/when_lora_pays.py --root DIR --name street-objects --size 128 --counts 15 --draws 0 1 --rows probe auto full

The two largest connected pieces of each class in a scene, with a margin; those of the parts val and test are the test part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

CLASSES = ("building", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SHORTEST, LONGEST, FEWEST = 24, 200, 400
"""Pixels of a side of an object's box, at least and at most, and of the object itself, at least."""
MARGIN = 0.15
"""Of the longer side of the box, all round."""


def objects(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Middle (x, y) and half a side of a square around each of the two largest pieces of ``mask (H, W)``, bool."""
    pieces, count = ndimage.label(mask)
    sizes = np.asarray(ndimage.sum(mask, pieces, range(1, count + 1)))
    boxes, found = ndimage.find_objects(pieces), []
    for place in np.argsort(-sizes)[:2]:
        rows, columns = boxes[place]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) >= SHORTEST and max(height, width) <= LONGEST and sizes[place] >= FEWEST:
            half = max(height, width) // 2 + int(MARGIN * max(height, width))
            found.append(((columns.start + columns.stop) // 2, (rows.start + rows.stop) // 2, half))
    return found


def asked(description: str) -> tuple[Path, Path, list[str]]:
    """``--root`` and ``--out`` as they are typed, and the names of the classes below the root."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    return options.root, options.out, (options.root / "classes.txt").read_text(encoding="utf-8").split()


def scenes(root: Path) -> Iterator[tuple[str, Path, Image.Image, np.ndarray]]:
    """The part of each scene, its file, the scene itself and its mask ``(H, W)``, of the numbers of classes."""
    for part in ("train", "val", "test"):
        for path in sorted((root / part / "images").iterdir()):
            scene = Image.open(path).convert("RGB")
            file = next((root / part / "masks").glob(f"{path.stem}.*"))
            yield part, path, scene, np.asarray(Image.open(file).resize(scene.size, Image.Resampling.NEAREST))


def main() -> None:
    """Write ``OUT/{train,test}/CLASS/*.png``."""
    root, out, names = asked(str(__doc__))
    for part, path, scene, mask in scenes(root):
        for name in CLASSES:
            folder = out / ("train" if part == "train" else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, (x, y, half) in enumerate(objects(mask == names.index(name))):
                box = max(x - half, 0), max(y - half, 0), min(x + half, scene.width), min(y + half, scene.height)
                scene.crop(box).save(folder / f"{path.stem}_{number}.png")


if __name__ == "__main__":
    main()

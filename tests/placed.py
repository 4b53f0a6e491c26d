"""Small data sets with masks and boxes, as files, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionlora.tasks.detect.targets import padded

NAMES = ["red", "green"]
SIZES = [(48, 32), (32, 48), (40, 40)]
Object = tuple[int, tuple[int, int, int, int]]


def pictures(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, list[Object]]]:
    """Grey images with one to three coloured rectangles: uint8 ``(H, W, 3)``, masks ``(H, W)`` (0, or 1 + class), and class and corners."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        image = random.integers(100, 156, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        objects = []
        for place in range(random.integers(1, 3)):
            kind = int(random.integers(2))
            left, top = 2 + 18 * place, int(random.integers(2, 14))
            right, bottom = left + int(random.integers(8, 13)), top + int(random.integers(8, 14))
            image[top:bottom, left:right] = (230, 20, 20) if kind == 0 else (20, 220, 20)
            mask[top:bottom, left:right] = 1 + kind
            objects.append((kind, (left, top, min(right, width), min(bottom, height))))
        found.append((image, mask, objects))
    return found


def write_masks(root: Path, parts: dict[str, int]) -> Path:
    """``root/PART/{images,masks}`` and ``root/classes.txt``."""
    for number, (part, count) in enumerate(parts.items()):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True, exist_ok=True)
        for place, (image, mask, _) in enumerate(pictures(count, number)):
            Image.fromarray(image).save(root / part / "images" / f"{part}{place}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{part}{place}.png")
    (root / "classes.txt").write_text("background\nred\ngreen\n")
    return root


def write_voc(root: Path, parts: dict[str, int]) -> Path:
    """``JPEGImages``, ``Annotations`` and ``ImageSets/Main``."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate(parts.items()):
        names = []
        for place, (image, _, objects) in enumerate(pictures(count, number)):
            name = f"{part}{place}"
            names.append(name)
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png")
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml(objects, image.shape[1], image.shape[0]))
        (root / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(names))
    return root


def voc_xml(objects: list[Object], width: int, height: int) -> str:
    """An annotation as Pascal VOC has it."""
    each = "".join(
        f"<object><name>{NAMES[kind]}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox></object>"
        for kind, box in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{each}</annotation>"


def write_yolo(root: Path, parts: dict[str, int]) -> Path:
    """``images/PART``, ``labels/PART`` and ``data.yaml``."""
    for number, (part, count) in enumerate(parts.items()):
        for folder in ("images", "labels"):
            (root / folder / part).mkdir(parents=True, exist_ok=True)
        for place, (image, _, objects) in enumerate(pictures(count, number)):
            Image.fromarray(image).save(root / "images" / part / f"{part}{place}.png")
            height, width = image.shape[:2]
            lines = [
                f"{kind} {(a + c) / 2 / width:.6f} {(b + d) / 2 / height:.6f} {(c - a) / width:.6f} {(d - b) / height:.6f}"
                for kind, (a, b, c, d) in objects
            ]
            (root / "labels" / part / f"{part}{place}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(json.dumps({"names": dict(enumerate(NAMES))}))  # JSON is YAML
    return root


def write_yolo_polygons(root: Path, parts: dict[str, int]) -> Path:
    """The same, each object a polygon."""
    write_yolo(root, parts)
    for number, (part, count) in enumerate(parts.items()):
        for place, (image, _, objects) in enumerate(pictures(count, number)):
            height, width = image.shape[:2]
            corners = [
                (kind, [a / width, b / height, c / width, b / height, c / width, d / height, a / width, d / height])
                for kind, (a, b, c, d) in objects
            ]
            lines = [f"{kind} {' '.join(f'{value:.6f}' for value in values)}" for kind, values in corners]
            (root / "labels" / part / f"{part}{place}.txt").write_text("\n".join(lines))
    return root


def write_coco(root: Path, parts: dict[str, int]) -> Path:
    """``PART/*.png`` and ``annotations/instances_PART.json``."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate(parts.items()):
        (root / part).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place, (image, _, objects) in enumerate(pictures(count, number)):
            Image.fromarray(image).save(root / part / f"{part}{place}.png")
            images.append({"id": place + 7, "file_name": f"{part}{place}.png", "width": image.shape[1], "height": image.shape[0]})
            for kind, (a, b, c, d) in objects:
                own = {"id": len(annotations), "image_id": place + 7, "category_id": 10 - kind, "bbox": [a, b, c - a, d - b]}
                annotations.append(own | {"segmentation": [[a, b, c, b, c, d, a, d]]})
        categories = [{"id": 10 - kind, "name": name} for kind, name in enumerate(NAMES)] + [{"id": 3, "name": "unused"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def some_targets() -> Tensor:
    """What three images have: two objects, none, one."""
    return padded(
        [torch.tensor([[0, 0.1, 0.1, 0.4, 0.35], [2, 0.5, 0.3, 0.95, 0.9]]), torch.empty(0, 5), torch.tensor([[1, 0.2, 0.4, 0.3, 0.6]])]
    )

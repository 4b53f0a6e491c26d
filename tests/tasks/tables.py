"""A table of coloured images whose labels and numbers can be seen in them, for tests of tasks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("red", "green", "blue")


def coloured(folder: Path, count: int = 48) -> Path:
    """``table.csv`` with the columns part, image, labels, bright, warm: each image has the colours of its labels, and so the numbers."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["part", "image", "labels", "bright", "warm"])
        for number in range(count):
            there = [bool(number >> bit & 1) for bit in range(3)]
            levels = np.where(there, random.integers(160, 240, 3), random.integers(0, 60, 3))
            pixels = np.clip(levels + random.integers(-15, 15, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{number}.png")
            part = ("train", "train", "train", "val", "test")[number // 8 % 5]
            labels = "|".join(name for name, yes in zip(NAMES, there, strict=True) if yes)
            rows.writerow([part, f"images/{number}.png", labels, 1000 + 10 * pixels.mean(), pixels[..., 0].mean() / 255])
    return folder / "table.csv"

"""``data=digits`` with boxes or masks: scikit-learn's digits, one to six pasted over a texture, with exact labels. Comes with pip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.source import Source
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.run_lengths import counts_of
from visionlora.tasks.segment.mask_file import MaskArray

SIDE = 96
"""Pixels of a scene."""
SCENES = {"train": 400, "val": 60, "test": 150}
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
"""Of the 1,797 digits: none is in two parts."""
SMALLEST, LARGEST, MOST = 16, 36, 6
"""Pixels a side of a digit, and digits of a scene."""
CELLS = 4
"""Pixels a side of the grid of random colours that a texture is made of."""
INK = 0.35
"""Share of full ink from which a pixel belongs to a digit."""


@dataclass(frozen=True)
class Scene:
    """A picture.

    Args:
        image: uint8 ``(SIDE, SIDE, 3)``.
        boxes: of the digits, what they are, and the mask of each.
        mask: 0, or one more than the digit that covers the pixel: uint8 ``(SIDE, SIDE)``.
    """

    image: np.ndarray
    boxes: Boxes
    mask: np.ndarray


def boxed_digits(config: DataConfig) -> Source:
    """Scenes whose labels are the boxes of the digits."""
    parts = {part: Images.of_arrays(*_stacked(scenes, "boxes"), prefix=f"{part}/") for part, scenes in _parts().items()}
    return Source([str(digit) for digit in range(10)], parts, image_size=SIDE)


def masked_digits(config: DataConfig) -> Source:
    """Scenes whose labels say which digit covers a pixel, or none."""
    parts = {part: Images.of_arrays(*_stacked(scenes, "mask"), prefix=f"{part}/") for part, scenes in _parts().items()}
    return Source(["background", *(str(digit) for digit in range(10))], parts, image_size=SIDE)


def _stacked(scenes: list[Scene], what: str) -> tuple[np.ndarray, list[Any]]:
    labels = [scene.boxes if what == "boxes" else MaskArray(scene.mask) for scene in scenes]
    return np.stack([scene.image for scene in scenes]), labels


def _parts() -> dict[str, list[Scene]]:
    """The scenes of each part, the same each time."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    parts, start = {}, 0
    for number, (part, share) in enumerate(SHARES.items()):
        chosen = order[start : start + round(share * len(order))]
        start += len(chosen)
        random = np.random.default_rng([1, number])
        parts[part] = [_scene(random, bunch.images[chosen] / 16.0, bunch.target[chosen]) for _ in range(SCENES[part])]
    return parts


def _scene(random: np.random.Generator, digits: np.ndarray, kinds: np.ndarray) -> Scene:
    image = _texture(random)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    places: list[tuple[int, int, int, int]] = []
    classes, inked = [], []
    for _ in range(random.integers(1, MOST + 1)):
        side = int(random.integers(SMALLEST, LARGEST + 1))
        chosen = int(random.integers(len(digits)))
        ink = np.asarray(Image.fromarray(digits[chosen].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)
        rows, columns = np.flatnonzero((ink > INK).any(1)), np.flatnonzero((ink > INK).any(0))
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = ink.shape
        top, left = int(random.integers(SIDE - height + 1)), int(random.integers(SIDE - width + 1))
        if any(
            left < right + 2 and other < left + width + 2 and top < bottom + 2 and above < top + height + 2
            for other, above, right, bottom in places
        ):
            continue  # it would cover another one
        window = (slice(top, top + height), slice(left, left + width))
        image[window] += ink[..., None] * (_colour_apart(random, image[window].mean((0, 1))) - image[window])
        mask[window][ink > INK] = 1 + int(kinds[chosen])
        inked.append(np.zeros((SIDE, SIDE), np.uint8))
        inked[-1][window][ink > INK] = 1
        places.append((left, top, left + width, top + height))
        classes.append(int(kinds[chosen]))
    each = [counts_of(one) for one in inked]
    boxes = tuple((left / SIDE, top / SIDE, right / SIDE, bottom / SIDE) for left, top, right, bottom in places)
    return Scene(image.clip(0, 255).astype(np.uint8), Boxes(boxes, tuple(classes), tuple(each), (SIDE, SIDE)), mask)


def _texture(random: np.random.Generator) -> np.ndarray:
    """Random colours that run into each other, with noise: float64 ``(SIDE, SIDE, 3)``."""
    colours = random.integers(70, 186, (CELLS, CELLS, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return smooth + random.normal(0, 8, smooth.shape)


def _colour_apart(random: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A colour that can be told from the one behind it."""
    while True:
        colour = random.integers(0, 256, 3).astype(np.float64)
        if np.abs(colour - background).sum() > 240:
            return colour

"""``data.image_size`` where it is left open and the objects are small: how large a view has to be for a detector to find them."""

from __future__ import annotations

import math
from dataclasses import replace

import timm

from visionlora.backbone.placed import detectors
from visionlora.data.module import ImageData
from visionlora.runs.config import TrainConfig
from visionlora.training.recipe import Choice

SIDE = 48
"""Pixels that the side of half of the objects has in the view, if ``MOST`` allows it (docs/boxes_measured.md)."""
MOST, STEP = 512, 32
"""Pixels a side of the view at most, and what it is a multiple of."""


def decide_size(config: TrainConfig, data: ImageData) -> tuple[TrainConfig, list[Choice]]:
    """Fill in ``data.image_size`` where boxes are small, before the model is made; it is no choice where the usual size does."""
    share, given = data.object_share, config.data.image_size
    usual = _usual(config) if share is not None and config.recipe.name != "plain" else None
    if share is None or usual is None:
        return config, []
    wanted = min(STEP * math.ceil(SIDE / max(share, 1e-6) / STEP), MOST)
    if wanted <= usual or given == wanted:
        return config, []
    why = f"half of the objects are smaller than {math.ceil(share * usual)} pixels a side at {usual}, which are found better from nearer"
    if given is not None:
        return config, [Choice("data.image_size", given, why, instead=wanted)]
    why += f"; a step takes about {(wanted / usual) ** 2:.1f} times as long"
    return replace(config, data=replace(config.data, image_size=wanted)), [Choice("data.image_size", wanted, why)]


def _usual(config: TrainConfig) -> int | None:
    """Pixels a side that the model takes by itself; ``None`` where it takes one size alone, or nothing is known of it."""
    name, source = config.model.name, config.model.source
    if source == "torchvision":
        return None if "ssd" in name else detectors.SIZE
    known = timm.get_pretrained_cfg(name) if source == "timm" else None
    if source != "timm" or (known and known.fixed_input_size):
        return None
    return max(detectors.SIZE, known.input_size[-1]) if known else detectors.SIZE

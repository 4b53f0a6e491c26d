"""``data.image_size`` where it is left open and the objects are small: how large a view has to be for a detector to find them."""

from __future__ import annotations

import math
from dataclasses import replace

import timm

from visionlora.data.module import ImageData
from visionlora.runs.config import TrainConfig
from visionlora.training.recipe import Choice

SIDE = 48
"""Pixels that the side of half of the objects has in the view, if ``MOST`` allows it (docs/boxes.md)."""
USUAL, MOST, STEP = 320, 512, 32
"""Pixels a side of the view: the backbone's own choice, at most, and what it is a multiple of."""


def decide_size(config: TrainConfig, data: ImageData) -> tuple[TrainConfig, list[Choice]]:
    """Fill in ``data.image_size`` where boxes are small, before the model is made; it is no choice where the usual size does."""
    share, given = data.object_share, config.data.image_size
    if share is None or config.recipe.name == "plain" or not _takes_any(config):
        return config, []
    wanted = min(STEP * math.ceil(SIDE / max(share, 1e-6) / STEP), MOST)
    if wanted <= USUAL or given == wanted:
        return config, []
    why = f"half of the objects are smaller than {math.ceil(share * USUAL)} pixels a side at {USUAL}, which are found better from nearer"
    if given is not None:
        return config, [Choice("data.image_size", given, why, instead=wanted)]
    why += f"; a step takes about {(wanted / USUAL) ** 2:.1f} times as long"
    return replace(config, data=replace(config.data, image_size=wanted)), [Choice("data.image_size", wanted, why)]


def _takes_any(config: TrainConfig) -> bool:
    """Whether the model takes images of any size."""
    name = config.model.name
    if config.model.source == "torchvision":
        return "ssd" not in name
    known = timm.get_pretrained_cfg(name) if config.model.source == "timm" else None
    return config.model.source == "timm" and not (known and known.fixed_input_size)

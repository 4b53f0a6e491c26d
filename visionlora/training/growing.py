"""Progressive resizing: small images at first, whole ones at the end (EfficientNetV2, Tan and Le 2021, arXiv 2104.00298, §4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from visionlora.backbone.info import BackboneInfo
from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.lora.audit import undisturbed
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.task import Task

GROWN = 0.75
"""Share of the steps after which images have their whole size."""
UNITS = {128: 16, 0: 8}
"""Least side of the whole image -> what sides are multiples of."""


@dataclass(frozen=True)
class Growth:
    """The side of the training images by how much of the training is done.

    Args:
        start: the side at first, as a share of the whole.
        side: of the whole image, in pixels.
    """

    start: float
    side: int

    def side_at(self, done: float) -> int:
        """The side in pixels when the share ``done`` of the optimizer steps is done."""
        share = self.start + (1 - self.start) * min(done / GROWN, 1.0)
        unit = next(unit for least, unit in UNITS.items() if self.side >= least)
        return self.side if share == 1 else min(max(int(share * self.side / unit), 1) * unit, self.side)

    def sides(self) -> list[int]:
        """Every side that comes."""
        return sorted({self.side_at(step / 1000) for step in range(1001)})

    def of(self, images: Tensor, done: float) -> Tensor:
        """Images ``(N, C, H, W)`` made smaller, as a view of them that was made at that size would be, but for its rounding to 8 bits."""
        side = self.side_at(done)
        if side == images.shape[-1] or not len(images):
            return images
        smaller: Tensor = F.resize(images, [side, side], antialias=True)
        return smaller


def growth(config: DataConfig, task: Task, model: nn.Module, info: BackboneInfo) -> Growth | None:
    """What ``data.progressive`` asks for, ``None`` where it does not.

    Raises:
        UserError: the task's labels lie in the images, or the model takes images of one size alone.
    """
    if config.progressive is None:
        return None
    if isinstance(task, PlacedTask):
        raise UserError(f"data.progressive changes images and not what lies in them, as task={task.name} needs; leave it out.")
    found = Growth(config.progressive, info.preprocessing.image_size)
    device = next(model.parameters())
    for side in found.sides()[:-1]:
        example = torch.zeros(2, info.preprocessing.channels, side, side, device=device.device, dtype=device.dtype)
        try:
            with undisturbed(model), torch.no_grad():
                model(example)
        except (RuntimeError, AssertionError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise UserError(
                f"data.progressive: {info.spec.full_name} cannot take images of {side} px ({why}); leave it out, or take a model that"
                " takes any size, such as a convolutional one."
            ) from None
    return found

"""Test-time augmentation: several views of an image, whose outputs are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from visionlora.tasks.task import Task

NEAR, NEARER = 7 / 8, 3 / 4
"""Share of a side that a view from nearer shows; it is enlarged to the whole size, so that every model can take it."""


def views(images: Tensor, kind: str) -> Iterator[Tensor]:
    """Views ``(N, C, H, W)`` of images of that shape, the images themselves first.

    Args:
        images: as the model takes them.
        kind: ``flip`` (the mirrored image as well), ``crops`` (the four corners, mirrored in turn), ``scales`` (from nearer, twice).
    """
    yield images
    if kind == "flip":
        yield images.flip(-1)
    elif kind == "crops":
        corners = functional.five_crop(images, [round(NEAR * side) for side in images.shape[-2:]])[:4]
        for number, corner in enumerate(corners):
            yield _enlarged(corner.flip(-1) if number % 2 else corner, images)
    elif kind == "scales":
        for share in (NEAR, NEARER):
            yield _enlarged(functional.center_crop(images, [round(share * side) for side in images.shape[-2:]]), images)


def averaged(model: Callable[[Tensor], Tensor], images: Tensor, kind: str, task: Task) -> Tensor:
    """The outputs of a model for images, float32, averaged over their views as the task averages."""
    if kind == "none":
        return model(images).float()
    return task.averaged(torch.stack([model(view).float() for view in views(images, kind)]))


def _enlarged(part: Tensor, images: Tensor) -> Tensor:
    whole: Tensor = functional.resize(part, list(images.shape[-2:]), antialias=True)
    return whole

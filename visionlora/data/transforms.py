"""From an opened image to uint8 ``(C, H, W)``; conversion to floats and normalisation happen in batches, on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from visionlora.backbone.info import Preprocessing
from visionlora.common.errors import UserError
from visionlora.data.config import TRANSFORMS, DataConfig
from visionlora.data.opening import MODES
from visionlora.data.views import CentreView, WholeView


@dataclass(frozen=True)
class Transform:
    """Turns an opened image into uint8 ``(C, H, W)``.

    Args:
        steps: transforms of torchvision, the last to a tensor.
        detail: pixels a side that the result can tell apart: a JPEG file need not be decoded to more.
    """

    steps: Callable[[Image.Image], Tensor]
    detail: int

    def __call__(self, image: Image.Image) -> Tensor:
        return self.steps(image)


BatchTransform = Callable[[Tensor, Sequence[int]], Tensor]
"""From uint8 ``(N, C, H, W)`` and a seed an image to uint8 ``(N, C, H', W')``: as by ``Transform`` with these seeds, up to rounding."""
OVERSAMPLED = 2
"""Pixels decoded for each pixel of the view, a side, at least: the last halving is left to the better filter of the resize."""


def for_data(preprocessing: Preprocessing, config: DataConfig) -> Preprocessing:
    """The backbone's preprocessing at the size of the run; without random crops in training, the whole image is used."""
    size = config.image_size or preprocessing.image_size
    return replace(preprocessing, image_size=size, crop_mode="squash" if config.crop_scale is None else "center")


def train_transform(preprocessing: Preprocessing, config: DataConfig) -> Transform:
    """Random views, as ``config`` says."""
    if preprocessing.channels not in MODES:
        raise UserError(f"model.in_chans={preprocessing.channels}: images are read with 1, 3 or 4 channels.")
    if preprocessing.channels == 4 and (config.randaugment or config.color_jitter):
        raise UserError("data.randaugment and data.color_jitter change colours of 1 or 3 channels, not of model.in_chans=4.")
    size, how = (preprocessing.image_size,) * 2, InterpolationMode(preprocessing.interpolation)
    steps: list[torch.nn.Module] = (
        [WholeView(size[0], how)]
        if config.crop_scale is None
        else [v2.RandomResizedCrop(size, tuple(config.crop_scale), interpolation=how)]
    )
    if config.hflip:
        steps.append(v2.RandomHorizontalFlip(config.hflip))
    if config.randaugment:
        steps.append(v2.RandAugment(config.randaugment))
    if config.color_jitter:
        steps.append(v2.ColorJitter(*(config.color_jitter,) * 3))
    if config.transform is not None:
        steps.append(TRANSFORMS[config.transform](config))
    steps.append(v2.PILToTensor())
    if config.random_erasing:
        steps.append(v2.RandomErasing(config.random_erasing))
    smallest = 1.0 if config.crop_scale is None else math.sqrt(config.crop_scale[0])  # share of a side that fills the view
    return Transform(v2.Compose(steps), math.ceil(OVERSAMPLED * preprocessing.image_size / smallest))


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """The one view of evaluation and prediction: the whole image squashed, or its resized centre."""
    detail = math.ceil(OVERSAMPLED * preprocessing.image_size / preprocessing.crop_pct)
    return Transform(v2.Compose([_eval_steps(preprocessing), v2.PILToTensor()]), detail)


def _eval_steps(preprocessing: Preprocessing) -> torch.nn.Module:
    size, how = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        return WholeView(size, how)
    return CentreView(size, math.ceil(size / preprocessing.crop_pct), how)


def train_batch_transform(preprocessing: Preprocessing, config: DataConfig) -> BatchTransform | None:
    """``train_transform`` of whole batches, where each of its steps can be done so; else ``None``."""
    if config.crop_scale is not None or config.randaugment or config.color_jitter or config.random_erasing or config.transform:
        return None
    size, how = [preprocessing.image_size] * 2, InterpolationMode(preprocessing.interpolation)

    def transform(batch: Tensor, seeds: Sequence[int]) -> Tensor:
        batch = F.resize(batch, size, how)
        if not config.hflip:
            return batch
        draws = torch.cat([torch.rand(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return torch.where((draws < config.hflip)[:, None, None, None], F.horizontal_flip(batch), batch)

    return transform


def eval_batch_transform(preprocessing: Preprocessing) -> BatchTransform:
    """``eval_transform`` of whole batches."""
    steps = _eval_steps(preprocessing)
    return lambda batch, seeds: steps(batch)


def normalize(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``(N, C, H, W)`` -> float32, zero mean and unit variance by the backbone's statistics."""
    floats = F.to_dtype(batch, torch.float32, scale=True)
    return F.normalize(floats, list(preprocessing.mean), list(preprocessing.std))  # type: ignore[no-any-return]

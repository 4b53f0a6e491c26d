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
from visionlora.data.placing import jittered, letterbox
from visionlora.data.views import CentreView, RandomCrop, ShorterSide, WholeView
from visionlora.tasks.placed import Placed


@dataclass(frozen=True)
class Small:
    """The beginning of a transform, in which nothing is random: its result is made once, kept, and gone on from.

    Args:
        make: of an opened image, one of few pixels.
        rest: from there to uint8 ``(C, H, W)``.
        said: what is made, in words.
    """

    make: Callable[[Image.Image], Image.Image]
    rest: Callable[[Image.Image], Tensor]
    said: str


@dataclass(frozen=True)
class Transform:
    """Turns an opened image into uint8 ``(C, H, W)``.

    Args:
        steps: transforms of torchvision, the last to a tensor.
        detail: pixels a side that the result can tell apart: a JPEG file need not be decoded to more.
        small: what ``data.decoded`` keeps of an opened image; ``None``: nothing.
    """

    steps: Callable[[Image.Image], Tensor]
    detail: int
    small: Small | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        return self.steps(image)

    def with_labels(self, image: Image.Image, placed: Placed) -> tuple[Tensor, Placed]:
        """The same of an image with what lies in it."""
        return self.steps(image, placed)  # type: ignore[call-arg, return-value]


BatchTransform = Callable[[Tensor, Sequence[int]], Tensor]
"""From uint8 ``(N, C, H, W)`` and a seed an image to uint8 ``(N, C, H', W')``: as by ``Transform`` with these seeds, up to rounding."""
OVERSAMPLED = 2
"""Pixels decoded for each pixel of the view, a side, at least: the last halving is left to the better filter of the resize."""

KEPT = 1.5
"""Pixels for each pixel of the view, a side, that ``data.decoded`` keeps for the smallest random crop."""


def for_data(preprocessing: Preprocessing, config: DataConfig, placed: bool = False) -> Preprocessing:
    """The backbone's preprocessing at the size of the run; without random crops in training, the whole image is used, and in its shape
    where labels lie in it.
    """
    size = config.image_size or preprocessing.image_size
    mode = "letterbox" if placed else "squash" if config.crop is None else "center"
    return replace(preprocessing, image_size=size, crop_mode=mode)


def train_transform(preprocessing: Preprocessing, config: DataConfig) -> Transform:
    """Random views, as ``config`` says.

    Raises:
        UserError: images cannot be read or augmented with that many channels, or what lies in them cannot be moved so.
    """
    if preprocessing.channels not in MODES:
        raise UserError(f"model.in_chans={preprocessing.channels}: images are read with 1, 3 or 4 channels.")
    if preprocessing.channels == 4 and (config.randaugment or config.color_jitter):
        raise UserError("data.randaugment and data.color_jitter change colours of 1 or 3 channels, not of model.in_chans=4.")
    size, how = (preprocessing.image_size,) * 2, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "letterbox":
        return _with_labels(preprocessing, config)
    steps: list[torch.nn.Module] = [WholeView(size[0], how)] if config.crop is None else [RandomCrop(size, config.crop, interpolation=how)]
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
    smallest = 1.0 if config.crop is None else math.sqrt(config.crop[0])  # share of a side that fills the view
    detail = math.ceil(OVERSAMPLED * preprocessing.image_size / smallest)
    if config.crop is None:
        small = Small(steps[0], v2.Compose(steps[1:]), f"whole {size[0]} {how.value}")
    else:
        shorter = math.ceil(KEPT * preprocessing.image_size / smallest)
        small = Small(ShorterSide(shorter, how), v2.Compose(steps), f"shorter {shorter} {how.value}")
    return Transform(v2.Compose(steps), detail, small)


def _with_labels(preprocessing: Preprocessing, config: DataConfig) -> Transform:
    """Random views of images with what lies in them: of another size at another place, mirrored, in other colours."""
    for key in ("crop_scale", "randaugment", "random_erasing", "transform"):
        value = getattr(config, key)
        if value and value != "auto":
            raise UserError(
                f"data.{key}={value} does not move masks and boxes with the image; leave it out:"
                " data.scale_jitter, data.hflip and data.color_jitter do."
            )
    scales = (1.0, 1.0) if config.scale_jitter is None else (config.scale_jitter[0], config.scale_jitter[1])
    steps = letterbox(preprocessing) if config.scale_jitter is None else jittered(preprocessing, scales)
    if config.hflip:
        steps.append(v2.RandomHorizontalFlip(config.hflip))
    if config.color_jitter:
        steps.append(v2.ColorJitter(*(config.color_jitter,) * 3))
    steps.append(v2.PILToTensor())
    return Transform(v2.Compose(steps), math.ceil(OVERSAMPLED * preprocessing.image_size * max(scales)))


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """The one view of evaluation and prediction: the whole image, or its resized centre."""
    whole = preprocessing.crop_mode == "letterbox"
    detail = math.ceil(OVERSAMPLED * preprocessing.image_size / (1.0 if whole else preprocessing.crop_pct))
    steps = _eval_steps(preprocessing)
    said = f"{preprocessing.crop_mode} {preprocessing.image_size} {preprocessing.crop_pct} {preprocessing.interpolation}"
    return Transform(v2.Compose([steps, v2.PILToTensor()]), detail, None if whole else Small(steps, v2.PILToTensor(), said))


def _eval_steps(preprocessing: Preprocessing) -> torch.nn.Module:
    size, how = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "letterbox":
        return v2.Compose(letterbox(preprocessing))  # type: ignore[no-any-return]
    if preprocessing.crop_mode == "squash":
        return WholeView(size, how)
    return CentreView(size, math.ceil(size / preprocessing.crop_pct), how)


def train_batch_transform(preprocessing: Preprocessing, config: DataConfig) -> BatchTransform | None:
    """``train_transform`` of whole batches, where each of its steps can be done so; else ``None``."""
    if config.crop is not None or config.randaugment or config.color_jitter or config.random_erasing or config.transform:
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

"""Views of a whole image, resized; what is made on the way stays small, however long and narrow the image is."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

MOST_BETWEEN = 2**22
"""Pixels that Pillow may make between the two passes of a resize: across first, then down."""
LONGEST = 16
"""Times as long as wide that an image is resized whole; of a longer one only what the view shows."""
MADE_OF = "made of"
"""Key of a PIL image's ``info``: ``(width, height)`` of the image of which it is a smaller one."""
_PILLOWS = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.LANCZOS: Image.Resampling.LANCZOS,
    InterpolationMode.BOX: Image.Resampling.BOX,
    InterpolationMode.HAMMING: Image.Resampling.HAMMING,
}


class WholeView(torch.nn.Module):
    """The whole image squashed to ``size × size`` pixels: a PIL image, or a batch ``(N, C, H, W)``."""

    def __init__(self, size: int, interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size, self.interpolation = [size, size], interpolation

    def forward(self, image: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        if isinstance(image, Image.Image) and self.size[1] * image.height > MOST_BETWEEN:
            image = F.resize(image, [self.size[0], image.width], self.interpolation)  # down first: the passes do not depend on each other
        return F.resize(image, self.size, self.interpolation)  # type: ignore[no-any-return]


class ShorterSide(torch.nn.Module):
    """The whole image with a shorter side of at most ``size`` pixels."""

    def __init__(self, size: int, interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def forward(self, image: Image.Image) -> Image.Image:
        if min(image.size) <= self.size:
            return image
        scale = self.size / min(image.size)
        small = F.resize(image, [max(round(side * scale), 1) for side in (image.height, image.width)], self.interpolation)
        small.info[MADE_OF] = image.size
        return small  # type: ignore[no-any-return]


class RandomCrop(v2.RandomResizedCrop):
    """torchvision's; of an image that was made smaller the same part, for the same seed, as of the image that it was made of."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = flat_inputs[0]
        before = image.info.get(MADE_OF) if isinstance(image, Image.Image) else None
        if before is None:
            return super().make_params(flat_inputs)  # type: ignore[no-any-return]
        across, down = image.width / before[0], image.height / before[1]
        drawn = super().make_params([torch.empty(1, 1, 1).expand(1, before[1], before[0])])  # takes no memory
        top, left = round(drawn["top"] * down), round(drawn["left"] * across)
        bottom, right = round((drawn["top"] + drawn["height"]) * down), round((drawn["left"] + drawn["width"]) * across)
        return {"top": top, "left": left, "height": max(bottom - top, 1), "width": max(right - left, 1)}


class CentreView(torch.nn.Module):
    """The ``size × size`` pixels in the middle of the image whose shorter side is ``resized``: of a PIL image, or a batch."""

    def __init__(self, size: int, resized: int, interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size, self.resized, self.interpolation = size, resized, interpolation
        self.steps = v2.Compose([v2.Resize(resized, interpolation), v2.CenterCrop(size)])

    def forward(self, image: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        if isinstance(image, torch.Tensor) or max(image.size) <= LONGEST * min(image.size):
            return self.steps(image)  # type: ignore[no-any-return]
        shorter, longer = min(image.size), max(image.size)
        scale = longer / int(self.resized * longer / shorter)  # of the longer side; torchvision rounds it down
        place = max(round((longer / scale - self.size) / 2), 0)
        along = (place * scale, (place + self.size) * scale)
        place = round((self.resized - self.size) / 2)
        across = (place * shorter / self.resized, (place + self.size) * shorter / self.resized)
        (left, right), (top, bottom) = (along, across) if image.width > image.height else (across, along)
        return image.resize((self.size, self.size), _PILLOWS[self.interpolation], box=(left, top, right, bottom))

"""Views of a whole image, resized; what is made on the way stays small, however long and narrow the image is."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

MOST_BETWEEN = 2**22
"""Pixels that Pillow may make between the two passes of a resize: across first, then down."""
LONGEST = 16
"""Times as long as wide that an image is resized whole; of a longer one only what the view shows."""
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

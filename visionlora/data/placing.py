"""Views of an image with what lies in it, masks and boxes: torchvision's transforms, which move both."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from visionlora.backbone.info import Preprocessing
from visionlora.tasks.placed import IGNORED


def fills(preprocessing: Preprocessing) -> dict[Any, Any]:
    """What is beyond the image: the mean colour, and no class."""
    return {PIL.Image.Image: mean_colour(preprocessing), tv_tensors.Mask: IGNORED, "others": 0}


def mean_colour(preprocessing: Preprocessing) -> tuple[int, ...]:
    """The colour that normalises to zero, 0 to 255 a channel."""
    return tuple(round(255 * value) for value in preprocessing.mean)


class FitIn(v2.Transform):
    """Resizes so that the longer side has ``size`` pixels, and the shorter one at least one.

    Args:
        size: pixels.
        interpolation: of images; masks take the nearest.
        scales: smallest and largest factor that is drawn for each image; none where both are 1.
    """

    def __init__(self, size: int, interpolation: InterpolationMode, scales: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.size, self.interpolation, self.scales = size, interpolation, scales

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.scales
        factor = low + (high - low) * float(torch.rand(1)) if low < high else low
        height, width = F.get_size(flat_inputs[0])  # of the image: masks may be smaller
        share = factor * self.size / max(height, width)
        return {"sides": [max(int(height * share + 1e-6), 1), max(int(width * share + 1e-6), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["sides"], self.interpolation)


class PadTo(v2.Transform):
    """Pads right and below to ``size × size`` pixels, so that places in the image stay where they are."""

    def __init__(self, size: int, fill: dict[Any, Any]) -> None:
        super().__init__()
        self.size, self.fill = size, fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = F.get_size(inpt)
        padding = [0, 0, self.size - width, self.size - height]
        fill = self.fill.get(PIL.Image.Image if isinstance(inpt, PIL.Image.Image) else type(inpt), self.fill["others"])
        return F.pad(inpt, padding, fill=list(fill) if isinstance(fill, tuple) and len(fill) > 1 else fill)


def letterbox(preprocessing: Preprocessing) -> list[torch.nn.Module]:
    """The whole image, its longer side as long as the square, the rest filled up."""
    size, how = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    return [FitIn(size, how), PadTo(size, fills(preprocessing))]


def jittered(preprocessing: Preprocessing, scales: tuple[float, float]) -> list[torch.nn.Module]:
    """A part of the image from nearer, or all of it from further off, somewhere in the square
    (Ghiasi et al. 2021, arXiv 2012.07177, §3).
    """
    size, how = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    return [
        FitIn(size, how, scales),
        v2.RandomCrop(size, pad_if_needed=True, fill=fills(preprocessing)),
    ]

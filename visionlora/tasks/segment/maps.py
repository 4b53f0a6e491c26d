"""From the outputs for a prepared image to a class for every pixel of the image itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from visionlora.tasks.placed import seen_share

MOST = 2**27
"""Numbers that outputs may have at the size of the image; of more, classes are enlarged in place of outputs."""


def map_of(outputs: Tensor, size: tuple[int, int], side: int) -> np.ndarray:
    """Index of the class of each pixel, uint8 ``(height, width)``.

    Args:
        outputs: of the model, ``(classes, H, W)``.
        size: width and height of the image.
        side: of the model's input; the image is in its upper left corner.
    """
    width, height = size
    share = seen_share(size, side) * outputs.shape[-1] / side
    rows, columns = max(int(height * share + 1e-6), 1), max(int(width * share + 1e-6), 1)
    seen = outputs[None, :, :rows, :columns].float()
    if len(outputs) * width * height > MOST:
        small = seen.argmax(1, keepdim=True).float()
        found = functional.interpolate(small, (height, width), mode="nearest-exact")[0, 0]
    else:
        found = functional.interpolate(seen, (height, width), mode="bilinear", align_corners=False)[0].argmax(0)
    return found.to(torch.uint8).numpy()

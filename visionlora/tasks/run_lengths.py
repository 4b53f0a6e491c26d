"""Masks as COCO's compressed run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from visionlora.common.errors import UserError


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Pixels that are true, as COCO's ``segmentation``: ``size`` (height, width) and ``counts``.

    Raises:
        UserError: pycocotools is not installed.
    """
    try:
        from faster_coco_eval import mask as coco
    except ImportError:
        raise UserError("run lengths need faster-coco-eval: pip install 'visionlora[vision]'.") from None
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}

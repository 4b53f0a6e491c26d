"""Masks as COCO's compressed run lengths, and what files of COCO's have in their place. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from visionlora.common.errors import UserError

FARTHEST = 10
"""Times the sides of an image that a corner of a polygon may be away from it: the library walks along every edge."""


def _library() -> Any:
    """faster-coco-eval's functions for masks, which are pycocotools'.

    Raises:
        UserError: it is not installed.
    """
    try:
        from faster_coco_eval import mask
    except ImportError:
        raise UserError("run lengths need faster-coco-eval: pip install 'visionlora[vision]'.") from None
    return mask


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Pixels that are true, as COCO's ``segmentation``: ``size`` (height, width) and ``counts``.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    return {"size": [int(side) for side in mask.shape], "counts": counts_of(mask).decode("ascii")}


def counts_of(mask: np.ndarray) -> bytes:
    """The compressed run lengths of the pixels that are true."""
    found: bytes = _library().encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return found


def decoded(counts: bytes, size: tuple[int, int]) -> np.ndarray:
    """The mask, uint8 ``(height, width)``, 1 where it is."""
    found: np.ndarray = _library().decode({"size": list(size), "counts": counts})
    return np.ascontiguousarray(found)


def area(counts: bytes, size: tuple[int, int]) -> int:
    """How many pixels a mask has."""
    return int(_library().area({"size": list(size), "counts": counts}))


def run_lengths(segmentation: Any, size: tuple[int, int]) -> bytes:
    """The compressed run lengths of what COCO calls a segmentation: polygons, or run lengths, compressed or not.

    Args:
        segmentation: as it is in the file.
        size: height and width of the image.

    Raises:
        ValueError: it is none, and why, as the end of a sentence.
    """
    if isinstance(segmentation, dict):
        return _of_lengths(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation")
    polygons = [_corners(one, size) for one in segmentation]
    large = [one for one in polygons if len(one) >= 6]
    if not large:
        raise ValueError("has no polygon of three corners")
    library = _library()
    found: bytes = library.merge(library.frPyObjects(large, *size))["counts"]
    return found


def _corners(polygon: Any, size: tuple[int, int]) -> list[float]:
    try:
        corners = [float(value) for value in polygon]
    except (TypeError, ValueError):
        raise ValueError("has a polygon that is no list of numbers") from None
    if len(corners) % 2:
        raise ValueError(f"has a polygon of {len(corners)} numbers, which must be pairs")
    if not all(abs(value) <= FARTHEST * max(size) for value in corners):  # not a number is not below either
        raise ValueError("has a polygon with a corner far from the image")
    return corners


def _of_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> bytes:
    counts, own = segmentation.get("counts"), segmentation.get("size")
    if list(own or ()) != list(size):
        raise ValueError(f"has run lengths for an image of (height, width) {own}, and its image has {list(size)}")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != math.prod(size):
            raise ValueError(f"has run lengths that do not add up to the {math.prod(size):,} pixels of its image")
        found: bytes = _library().frPyObjects({"counts": counts, "size": list(size)}, *size)["counts"]
        return found
    if not isinstance(counts, str | bytes):
        raise ValueError("has run lengths without counts")
    try:
        own_bytes = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise ValueError("has run lengths with signs that are none of theirs") from None
    lengths = _uncompressed(own_bytes)
    if any(length < 0 for length in lengths) or sum(lengths) != math.prod(size):
        raise ValueError(f"has run lengths that do not add up to the {math.prod(size):,} pixels of its image")
    return own_bytes


def _uncompressed(counts: Sequence[int]) -> list[int]:
    """The run lengths themselves: of numbers in five bits a sign, from the third on the difference to the one before the last."""
    found: list[int] = []
    value = shift = 0
    for sign in counts:
        bits = sign - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)
        value = shift = 0
    return found

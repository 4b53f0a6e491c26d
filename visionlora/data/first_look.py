"""Images looked at before a training: small ones are kept in memory, and those that cannot be read are noted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from visionlora.common.errors import UnreadableError
from visionlora.data.images import Images, Unreadable

SMALL = 64
"""Pixels a side up to which files of one size are read once and kept in memory."""
LONG = 8
"""Times as long as wide that they are at most: as a batch they are resized before the middle is cut out."""
KEPT = 2**30
"""Bytes that such files may take."""
CHECKED = 2**25
"""Bytes of files up to which all of them are decoded before a training, to find what cannot be read at once: a second or two."""


def into_memory(pictures: Images, channels: int, unreadable: Unreadable) -> Images:
    """The same images in memory as uint8, where they are files of one small size; else as they are.

    What cannot be read is left out of those in memory, and noted in ``unreadable``.
    """
    if pictures.in_memory:
        return pictures
    found: Unreadable = {}  # threads that are stopped would leave it to chance what is noted
    pending = iter(range(len(pictures)))
    first = next((image for index in pending if (image := _opened(pictures, index, channels, None, found))), None)
    if first is None or max(first.size) > min(SMALL, LONG * min(first.size)):
        return pictures
    if len(pictures) * first.width * first.height * channels > KEPT:
        return pictures
    kept: list[int] = []
    arrays = np.empty((len(pictures), *np.asarray(first).shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda i: _opened(pictures, i, channels, None, found), range(len(pictures)))):
            if image is not None and image.size != first.size:
                pool.shutdown(cancel_futures=True)
                return pictures
            if image is not None:
                arrays[len(kept)] = np.asarray(image)
                kept.append(index)
    unreadable.update(found)
    return replace(pictures.subset(kept), arrays=arrays[: len(kept)])


def checked(
    pictures: Images,
    channels: int,
    detail: int,
    unreadable: Unreadable,
    most: int | None = CHECKED,
    *,
    fits: Callable[[Any, Image.Image], object] | None = None,
) -> Images:
    """The images without those that cannot be read, where their files have at most so many bytes; else as they are, unopened.

    Args:
        pictures: the images.
        channels: see ``Images.open``.
        detail: see ``Images.open``.
        unreadable: what is found is noted here.
        most: bytes; ``None`` for any number.
        fits: is shown each label with its image, and raises ``UnreadableError`` where they do not go together.
    """
    if pictures.in_memory:
        return pictures
    size = 0
    for index in range(len(pictures)):
        size += pictures.bytes_of(index)
        if most is not None and size > most:
            return pictures
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda i: _opened(pictures, i, channels, detail, unreadable, fits) is None, range(len(pictures))))
    return pictures.without(unreadable)


def _opened(
    pictures: Images,
    index: int,
    channels: int,
    detail: int | None,
    unreadable: Unreadable,
    fits: Callable[[Any, Image.Image], object] | None = None,
) -> Image.Image | None:
    """The image, or ``None`` and a note."""
    try:
        image = pictures.open(index, channels, detail)
        if fits is not None:
            fits(pictures.labels[index], image)
        return image
    except UnreadableError as error:
        unreadable[pictures.names[index]] = error.why
        return None

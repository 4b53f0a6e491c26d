"""Opening one image file: which formats, how many pixels, what becomes of unusual ones, and when a file counts as unreadable."""

from __future__ import annotations

import errno
import io
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UnreadableError, UserError
from visionlora.data.jpeg import ends_early
from visionlora.tasks.placed import FULL_SIZE

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> PIL's mode."""
MOST_PIXELS = 89_478_485
"""Pixels of the largest image that is decoded: from here on Pillow, too, warns of a decompression bomb."""
LONGEST_SIDE = 2**20
"""Pixels: Pillow keeps account of every row, so that many short ones cost far more than their pixels."""
NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "SPIDER"}
"""Formats that Pillow knows but that run another program (EPS), need one, or are no images."""
_PASSING = {
    getattr(errno, name, None)
    for name in ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "ENODEV", "ENXIO", "ENOTCONN", "EHOSTDOWN", "EAGAIN")
}
"""Errors of the disk or the machine that may be gone at the next try: no reason to leave an image out."""
_WHITE_IS_ZERO = 262, 0  # of TIFF: the tag PhotometricInterpretation
_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)  # of EXIF: the tag, and its values where width and height change places


@cache
def extensions() -> frozenset[str]:
    """Endings, in lower case and with their dot, of the files that are taken for images."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, name in known.items() if name not in NOT_READ and (name in Image.OPEN or name == "MPO"))


def open_image(path: Path, channels: int, detail: int | None = None) -> Image.Image:
    """The image in a file, upright (EXIF), with ``channels`` channels; of several frames or pages the first. Its ``info`` has the size
    of the whole image under ``FULL_SIZE``.

    Args:
        path: of the file.
        channels: 1, 3 or 4.
        detail: pixels a side that suffice: a larger JPEG is decoded to a half, a quarter or an eighth of its size, many times
            as fast (Pillow's draft mode), as long as both its sides keep so many.

    Raises:
        UnreadableError: it cannot be read as an image; the message names the file.
        UserError: the disk or the memory failed.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise UnreadableError("it is not a regular file")
        with path.open("rb") as file:
            return _opened(file, path.suffix.lower(), channels, detail)
    except MemoryError:
        raise UserError(f"cannot read the image {path}: there is not enough memory.") from None
    except Exception as error:  # decoders raise whatever they meet in a damaged file
        if isinstance(error, OSError) and error.errno in _PASSING and error.errno is not None:
            raise UserError(f"cannot read the image {path}: {disk_trouble(error) or error}") from None
        raise UnreadableError(_reason(error), path) from None


def decode_image(content: bytes, channels: int, detail: int | None = None) -> Image.Image:
    """The image in the bytes of a file, as ``open_image`` has it.

    Raises:
        UnreadableError: it cannot be read as an image.
        UserError: the memory failed.
    """
    try:
        return _opened(io.BytesIO(content), "", channels, detail)
    except MemoryError:
        raise UserError("cannot read the image: there is not enough memory.") from None
    except Exception as error:  # decoders raise whatever they meet in damaged bytes
        raise UnreadableError(f"cannot read the image: {_reason(error)}.") from None


def _opened(file: BinaryIO, ending: str, channels: int, detail: int | None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, of a palette's transparency, and of many pixels, which are looked after here
        with Image.open(file, formats=_formats(ending)) as image:
            full_size = image.size
            if detail is not None:
                image.draft(None, (detail, detail))
            if image.width * image.height > MOST_PIXELS or max(image.size) > LONGEST_SIDE:
                most = f"{MOST_PIXELS:,} in all or {LONGEST_SIDE:,} a side"
                raise UnreadableError(f"it has {image.width} × {image.height} pixels, more than {most}; make it smaller, or cut it up")
            image.load()
            if image.format in ("JPEG", "MPO") and ends_early(file, image):
                raise UnreadableError("its data end before the image does")
            if image.format == "PNG":  # what comes behind the pixels, such as EXIF's orientation, is passed over when it is damaged
                file.seek(0)
                with Image.open(file, formats=["PNG"]) as again:
                    again.verify()
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            found = to_mode(ImageOps.exif_transpose(image), channels, image)
            found.info[FULL_SIZE] = full_size[::-1] if turned else full_size
            return found


def to_mode(image: Image.Image, channels: int, opened: Image.Image | None = None) -> Image.Image:
    """Convert to 1, 3 or 4 channels of 8 bits; what is transparent is white unless there are 4.

    Args:
        image: of any mode.
        channels: 1, 3 or 4.
        opened: the image as it was opened, where ``image`` is a copy: it knows its file's format.

    Raises:
        UnreadableError: numbers of 32 bits, of which nothing says which is white.
    """
    image = _eight_bits(image, opened or image)
    if channels != 4 and image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(coloured, mask=coloured)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _eight_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """An image of 16 bits a pixel scaled to 8 by the range of the type: PIL would clip it at 255."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and opened.format in ("PNG", "PPM"))
    if sixteen:
        levels = (np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8)
        tag, inverted = _WHITE_IS_ZERO
        return Image.fromarray(~levels if getattr(opened, "tag_v2", {}).get(tag) == inverted else levels)
    if image.mode in ("I", "F"):
        what = "integers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise UnreadableError(f"its pixels are {what}, of which nothing says which is white; convert it to 8 or 16 bits")
    return image


@cache
def _formats(ending: str) -> tuple[str, ...]:
    """The formats that a file may have, whatever its name: those that are told by their first bytes, and that of its ending."""
    known = Image.registered_extensions()
    named = known.get(ending)
    told = [name for name, (_, accept) in Image.OPEN.items() if accept is not None or name == named]
    return tuple(name for name in told if name not in NOT_READ)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format was recognised"
    if isinstance(error, Image.DecompressionBombError):
        return "it has more than twice the pixels that Pillow takes for safe"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__

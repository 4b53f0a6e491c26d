"""JPEG files whose data end before the image does: decoders make the rest of zeros or of grey, without a word."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

from PIL import Image

_END = b"\xff\xd9"
_FILLER = bytes(range(17, 241, 3))  # no 0xFF among them, so no marker
_END_OF_SEGMENT = re.compile(rb"(?=\xff[\x01-\xcf\xd8-\xfe])")
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def ends_early(file: BinaryIO, decoded: Image.Image) -> bool:
    """Whether a JPEG that was decoded without complaint has no end mark, or its data end before the image does.

    Args:
        file: that it was decoded from.
        decoded: the image in it, as it was decoded.
    """
    last = decoded.getpixel((decoded.width - 1, decoded.height - 1))
    levels = last if isinstance(last, tuple) else (last,)
    grey = all(level in (127, 128) for level in levels)
    file.seek(-len(_END), os.SEEK_END)
    if file.read() == _END and not grey:
        return False
    file.seek(0)
    content = file.read()
    start = _scan(content)
    if start is None:
        return False
    return content.find(_END, start) < 0 or (grey and _filled_up(content, start, decoded))


def _filled_up(content: bytes, start: int, decoded: Image.Image) -> bool:
    """Whether the grey at the end of the image is filling.

    The image is decoded once more with a few bytes put in at the end of its data: where it had all it needs they are skipped, else they
    become part of it.
    """
    longer = io.BytesIO(content[:start] + _END_OF_SEGMENT.sub(_FILLER, content[start:]))
    try:
        with Image.open(longer, formats=["JPEG"]) as again:
            again.draft(decoded.mode, decoded.size)
            return again.size == decoded.size and again.tobytes() != decoded.tobytes()
    except Exception:  # the bytes put in have hit something else; what was decoded stands
        return False


def _scan(content: bytes) -> int | None:
    """The offset at which the data of the first scan begin, behind the headers, each of which says how long it is."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == 0xDA:
            return at
    return None

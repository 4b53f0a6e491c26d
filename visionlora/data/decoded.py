"""``data.decoded``: images decoded once to what a training shows of them, on the disk, for later epochs and for other runs.

A file an image, named by a hash of where the image comes from, when that was changed, and what was made of it. What is kept is what the
first epoch has shown too, so that a run is the same bit for bit whether an image was found here or not. Any number of processes may
read and write in the folder: a file appears whole, and its checksum is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.files import is_part, writing_beside
from visionlora.common.processes import process_rank
from visionlora.data.images import Images
from visionlora.data.opening import MODES
from visionlora.data.transforms import Transform
from visionlora.data.views import MADE_OF

_HEAD = struct.Struct("<4sIIIII")
_CHECK = struct.Struct("<I")
"""A checksum of head and pixels, between them."""
_MARK = b"vld2"
FOLDERS = 64
"""Folders that files are spread over by their hash; each holds its share of the bytes, so that one is listed to know what there is."""
UNUSED = 24 * 3600.0
"""Seconds after which a file that nobody has read makes room for another; before, it stays: an epoch that goes through more images than
fit would else find none of them.
"""
STAMPED = 3600.0
"""Seconds after which a file that is read is stamped as used again."""
GB = 10**9


@dataclass
class Decoded:
    """The images kept in ``folder``, which may have ``most_gb`` of them."""

    folder: Path
    most_gb: float
    told: bool = False
    stopped: bool = False

    @classmethod
    def of(cls, folder: str | None, most_gb: float) -> Decoded | None:
        """``None`` where no folder is named.

        Raises:
            UserError: it cannot be written.
        """
        if folder is None:
            return None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.decoded={folder}: {disk_trouble(error) or error}") from None
        return cls(Path(folder), most_gb)

    def open(self, images: Images, index: int, channels: int, transform: Transform) -> tuple[Image.Image, Callable[[Image.Image], Tensor]]:
        """Image ``index`` as ``transform.small`` makes it, from the disk where it is kept there, and what is left to be done with it.

        Raises:
            UnreadableError: it cannot be read as an image.
        """
        stamp = images.stamp(index)
        if stamp is None or transform.small is None:
            return images.open(index, channels, transform.detail), transform
        said = "\0".join((PIL.__version__, str(channels), transform.small.said, str(transform.detail), stamp))
        key = hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()
        file = self.folder / f"{int(key[:8], 16) % FOLDERS:02}" / key
        found = _read(file, channels)
        if found is None:
            found = transform.small.make(images.open(index, channels, transform.detail))
            self._keep(file, found)
        return found, transform.small.rest

    def _keep(self, file: Path, image: Image.Image) -> None:
        """Write an image down, where there is room and the disk takes it; a run goes on without."""
        if self.stopped:
            return
        pixels = image.tobytes()
        try:
            file.parent.mkdir(exist_ok=True)
            if not _room(file.parent, len(pixels) + _HEAD.size + _CHECK.size, self.most_gb * GB / FOLDERS):
                self._tell(f"data.decoded_gb={self.most_gb:g} are full in {self.folder}; images beyond are decoded each time.")
                return
            with writing_beside(file, sync=False) as (part, stream):
                head = _HEAD.pack(_MARK, *image.size, *image.info.get(MADE_OF, image.size), len(image.getbands()))
                stream.write(head + _CHECK.pack(zlib.crc32(pixels, zlib.crc32(head))))
                stream.write(pixels)
            try:
                os.replace(part, file)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            self.stopped = True
            trouble = disk_trouble(error).rstrip(".") or str(error)
            self._tell(f"data.decoded: {trouble}; images that are not kept there are decoded each time.")

    def _tell(self, sentence: str) -> None:
        """Say it once: of the processes that open images, the first one does."""
        worker = get_worker_info()
        if not self.told and not process_rank() and (worker is None or worker.id == 0):
            print(sentence, file=sys.stderr, flush=True)
        self.told = True


def _read(file: Path, channels: int) -> Image.Image | None:
    """The image in a file; ``None`` where there is none, or it is damaged."""
    try:
        with file.open("rb") as stream:
            content = stream.read()
            if time.time() - os.fstat(stream.fileno()).st_mtime > STAMPED:
                with contextlib.suppress(OSError):  # another user's
                    os.utime(file)
    except OSError:
        return None
    if len(content) < _HEAD.size + _CHECK.size:
        return None
    mark, width, height, *before, bands = _HEAD.unpack_from(content)
    (checksum,) = _CHECK.unpack_from(content, _HEAD.size)
    pixels = memoryview(content)[_HEAD.size + _CHECK.size :]
    if mark != _MARK or bands != channels or len(pixels) != width * height * bands:
        return None
    if zlib.crc32(pixels, zlib.crc32(content[: _HEAD.size])) != checksum:
        return None
    found = Image.frombytes(MODES[channels], (width, height), pixels)
    found.info[MADE_OF] = (before[0], before[1])
    return found


def _room(folder: Path, size: int, most: float) -> bool:
    """Whether ``size`` bytes more are within what the folder may have; files that nobody has used for long are removed for it."""
    old, now = [], time.time()
    used = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                there = entry.stat()
                used += there.st_size
                if now - there.st_mtime > (STAMPED if is_part(Path(entry.name)) else UNUSED):
                    old.append((there.st_mtime, there.st_size, entry.path))
    for _, freed, path in sorted(old):
        if used + size <= most:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        used -= freed
    return used + size <= most

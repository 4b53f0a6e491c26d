"""Places that images are read from by name, and that are no folders: archives."""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from visionlora.common.errors import UnreadableError, UserError
from visionlora.data.sources.folders import SQUEEZED


class Store(Protocol):
    """Gives the bytes of image files. It goes through pickle to worker processes, and is read by several threads at once."""

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            UnreadableError: they are damaged.
            UserError: the store cannot be read any more.
        """

    def size(self, name: str) -> int:
        """How many bytes it has."""

    def stamp(self, name: str) -> str:
        """What tells these bytes from those of any other file, and from what the same file was before it was changed."""


def file_stamp(path: Path, inside: str = "") -> str:
    """``Store.stamp`` of what is ``inside`` a file.

    Raises:
        UnreadableError: the file is not there.
    """
    try:
        there = path.stat()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), path) from None
    return f"{path.absolute()}\0{there.st_mtime_ns}\0{there.st_size}\0{inside}"


class ZipStore:
    """The files of a zip archive, not unpacked.

    Args:
        path: of the archive.

    Raises:
        UserError: it is none, or needs a password.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = threading.local()
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"data.root={path} cannot be read as a zip archive: {error}.") from None
        if any(info.flag_bits & 1 for info in infos):
            raise UserError(f"data.root={path} needs a password; unpack it.")
        self.sizes = {info.filename: info.file_size for info in infos}

    def read(self, name: str) -> bytes:
        """The bytes of one file, their checksum looked at."""
        known = getattr(self._opened, "archive", None)
        if known is None or known[0] != os.getpid():  # a process that was forked shares the place in the file
            known = self._opened.archive = os.getpid(), zipfile.ZipFile(self.path)
        try:
            return bytes(known[1].read(name))
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise UnreadableError(f"it is damaged in the archive: {error}") from None

    def size(self, name: str) -> int:
        """How many bytes it has."""
        return self.sizes[name]

    def stamp(self, name: str) -> str:
        """The archive and when it was changed."""
        return file_stamp(self.path, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=threading.local())


class TarStore:
    """The files of one or several tar archives, not unpacked: where each begins is found once, and it is read from there.

    Args:
        paths: of the archives; names of files that are in several get the archive's name before them.

    Raises:
        UserError: one is none, is compressed as a whole, or ends in the middle of a file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.places: dict[str, tuple[int, int, int]] = {}  # archive, first byte, number of bytes
        for number, path in enumerate(self.paths):
            for name, start, size in members(path):
                self.places[name if len(self.paths) == 1 else f"{path.stem}/{name}"] = number, start, size

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        number, start, size = self.places[name]
        try:
            with self.paths[number].open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise UserError(f"cannot read {self.paths[number]}: {error.strerror or error}.") from None

    def size(self, name: str) -> int:
        """How many bytes it has."""
        return self.places[name][2]

    def stamp(self, name: str) -> str:
        """The archive, when it was changed, and the place in it."""
        number, start, size = self.places[name]
        return file_stamp(self.paths[number], f"{start}+{size}")


def members(path: Path, called: str | None = None) -> list[tuple[str, int, int]]:
    """The files in a tar archive: name, first byte and number of bytes of each.

    Args:
        path: of the archive.
        called: the archive in sentences; by default its path.

    Raises:
        UserError: it is none, is compressed as a whole, or ends in the middle of a file.
    """
    called = called or str(path)
    try:
        with tarfile.open(path, "r:") as archive:
            found = [(member.name.removeprefix("./"), member.offset_data, member.size) for member in archive if member.isreg()]
        length = path.stat().st_size
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{called} cannot be read as a tar archive: {error}.") from None
    cut = [name for name, start, size in found if start + size > length]
    if cut:
        raise UserError(f"{called} was cut short: it ends in the middle of {cut[0]}; copy it again.")
    return found


def opened(path: Path) -> tuple[Store, list[str]]:
    """An archive and the names of its files.

    Raises:
        UserError: it is none, or is compressed as a whole.
    """
    if path.suffix.lower() in SQUEEZED:  # to reach one file, all before it would have to be decompressed
        raise UserError(f"data.root={path}: of archives, .zip and .tar are read as they are; unpack this one, or pack it again as .tar.")
    if path.suffix.lower() == ".zip":
        store = ZipStore(path)
        return store, list(store.sizes)
    tar = TarStore([path])
    return tar, list(tar.places)

"""Writing a file whole or not at all, and never outside the folder it belongs to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from visionlora.common.errors import UserError

_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_PART = re.compile(r"\..*\.[0-9a-f]{16}\.part")


def replace_file(path: Path, content: bytes) -> None:
    """Put a file with ``content`` in the place of ``path``: after a crash at any moment the old file is there, or the new one.

    The content is written to a new file beside ``path`` and has reached the disk before it takes the place. A symbolic link at
    ``path`` is replaced, not followed. The folder has to exist: a run folder that was moved away is not made a second time.

    Raises:
        OSError: the disk is full or cannot be written; ``path`` is as it was and nothing else is left.
    """
    part = write_beside(path, content)
    put_in_place(part, path)


def write_beside(path: Path, content: bytes) -> Path:
    """Write ``content`` to a new file in the folder of ``path`` and wait until the disk has it; returns the new file."""
    with writing_beside(path) as (part, stream):
        stream.write(content)
    return part


@contextlib.contextmanager
def writing_beside(path: Path, sync: bool = True) -> Iterator[tuple[Path, BinaryIO]]:
    """A context with a new file in the folder of ``path``, open for writing; afterwards the disk has it, or it is gone where that fails.

    Without ``sync`` the disk may get it later: for what can be made again, and is looked at when it is read.
    """
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    with naming(path):
        file = os.open(part, _NEW_FILE, 0o666)
        try:
            with open(file, "wb") as stream:
                yield part, stream
                stream.flush()
                if sync:
                    os.fsync(stream.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which an error of the disk names ``path``: an error in a ``write`` does not say by itself which file, and so which
    disk, failed.
    """
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = os.fspath(path), None
        raise


@contextlib.contextmanager
def library_writing(folder: Path) -> Iterator[None]:
    """Inside, libraries write below ``folder`` by code of their own, whose errors may not say what is wrong with the disk.

    What they have written half has to be there still at the end of it: a disk that was full is not, once that has been removed.

    Raises:
        OSError: one of them failed, and the folder does not take a file.
    """
    try:
        with naming(folder):
            yield
    except (OSError, UserError):
        raise
    except Exception as error:
        try:
            write_beside(folder / "trial", bytes(2**20)).unlink()
        except OSError as trouble:
            trouble.filename = os.fspath(folder)
            raise trouble from error
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Rename a file that ``write_beside`` made to ``path``; it is gone when that fails."""
    try:
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    with naming(path):
        _sync_folder(path.parent)


def is_part(path: Path) -> bool:
    """Whether it is a file that ``write_beside`` has begun."""
    return _PART.fullmatch(path.name) is not None


def remove_parts(*folders: Path) -> None:
    """Remove what processes that were killed while they wrote have left in these folders."""
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            for path in folder.iterdir():
                if is_part(path):
                    path.unlink(missing_ok=True)


def inside(root: Path, *names: str) -> Path:
    """The path ``root/names…``, for writing.

    Raises:
        UserError: a part of it below ``root`` is a symbolic link: whoever handed on the folder would choose what is overwritten.
    """
    path = root
    for name in names:
        path = path / name
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link, which is not written through; remove it, or put in its place what it points to.")
    return path


def folder_inside(root: Path, *names: str) -> Path:
    """The folder ``root/names…``, made when missing; ``root`` itself has to exist.

    Raises:
        UserError: a part of it is a symbolic link or a file.
    """
    folder = root
    for name in names:
        folder = inside(folder, name)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder} is a file where a folder has to be; move it away.") from None
    return folder


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries too, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(handle)

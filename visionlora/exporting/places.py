"""Where an export is written before it is whole, and how it comes to where it belongs: all of it or nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from visionlora.common.errors import UserError
from visionlora.common.files import inside, naming, remove_parts

_PREFIX, _LOCK = ".visionlora-export-", ".visionlora-export.lock"


def in_the_way(target: Path, overwrite: bool) -> str:
    """Why nothing may be written to the folder ``target``, as a sentence; ``""`` where it may be.

    An empty folder is not in the way: a try that failed may have left it.
    """
    if target.is_symlink():
        inside(target.parent, target.name)
    if target.is_dir():
        if overwrite or not any(target.iterdir()):
            return ""
        return f"{target} is there already; overwrite=true replaces it, another output folder leaves it."
    return f"{target} is a file where a folder has to be; move it away, or choose another output folder." if target.exists() else ""


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A new folder below ``folder``, which is made when missing, for what is not whole yet; only one process at a time has it.

    Afterwards it is gone. So are ``folder`` and its parents where they were made for it and nothing was put into them. What a process
    that was killed has left of its own such folder is removed first.

    Raises:
        UserError: another process is at work there, or a file is where the folder has to be.
        OSError: the disk cannot be written.
    """
    with _made(folder):
        lock = FileLock(inside(folder, _LOCK), timeout=0)
        try:
            with naming(folder):
                lock.acquire()
        except Timeout:
            raise UserError(f"{folder}: another process writes an export here; wait for its end, or choose another folder.") from None
        try:
            remove_parts(folder)
            for left in folder.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            with naming(folder):
                place = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX))
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)
        finally:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Inside, ``folder`` is there; afterwards the folders that were made for it are gone again where they are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        raise UserError(f"{there} is a file where a folder has to be; move it away, or choose another output folder.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # one that holds something stays, and so do its parents
            for path in missing:
                path.rmdir()


def put_in_place(parts: Sequence[Path], folder: Path, before: Path) -> list[Path]:
    """Move the folders ``parts`` into ``folder`` under their own names, all of them or none.

    Args:
        parts: on the same disk as ``folder``.
        folder: may have folders of these names, which are replaced.
        before: an empty folder for what is replaced.

    Returns:
        Where the folders are now.
    """
    with contextlib.ExitStack() as undo:
        for part in parts:
            target = folder / part.name
            with naming(target):
                if target.exists():
                    kept = before / part.name
                    target.rename(kept)
                    undo.callback(kept.rename, target)
                part.rename(target)
            undo.callback(target.rename, part)
        undo.pop_all()
    return [folder / part.name for part in parts]

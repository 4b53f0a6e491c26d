"""A disk that is full, read-only or gone, told in one sentence."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

STANDS = "What was written before stands; the same command can be run again."
_SHARED_MEMORY = ("out of shared memory", "allocate shared memory", "open shared memory")
"""How torch's messages begin where the processes that open images cannot hand them over."""
_NO_SHARED_MEMORY = "the shared memory (/dev/shm) is full; give it more room (docker run --shm-size=1g), or set data.num_workers=0"
_WHY = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "your quota of the disk is used up; make room",
    errno.EFBIG: "a file would be larger than is allowed here (ulimit -f)",
    errno.EROFS: "the disk is read-only; make it writable",
    errno.EACCES: "permission denied; allow it, or choose another folder",
    errno.EPERM: "it is not permitted; allow it, or choose another folder",
    errno.ENOENT: "it is not there (any more); a folder may have been moved or removed meanwhile",
    errno.ENOTDIR: "a file is where a folder has to be",
    errno.EISDIR: "a folder is where a file has to be",
    errno.EEXIST: "something is in its place already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ESTALE: "the network disk has lost it; mount it again",
    errno.EIO: "the disk cannot read or write it; it may be failing",
    errno.ENXIO: "the device is gone",
    errno.ENODEV: "the device is gone",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ETIMEDOUT: "the network disk does not answer",
    errno.ELOOP: "symbolic links lead in a circle, or one is where none may be",
}


def disk_trouble(error: BaseException) -> str:
    """What a user can do about an error of the disk or of the shared memory, in a sentence; ``""`` for any other error.

    Libraries pass such errors on inside others of their own, which are looked through.
    """
    text = str(error)
    if any(sign in text for sign in _SHARED_MEMORY):
        return f"{_NO_SHARED_MEMORY}."
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, OSError) and found.errno in _WHY:
            path = found.filename2 or found.filename
            where = os.fspath(path) if isinstance(path, str | os.PathLike) else found.strerror or "a file"
            return f"{where}: {_WHY[found.errno]}."
        seen.add(id(found))
        found = found.__cause__
    if os.strerror(errno.ENOSPC) in text:  # libraries that write by code of their own
        return f"{_WHY[errno.ENOSPC]}."
    return ""


def quiet_threads() -> None:
    """Print no traceback of a thread that the disk stopped, such as a tracker's: whoever it writes for is told of the error."""
    otherwise = threading.excepthook

    def hook(arguments: Any) -> None:
        if arguments.exc_value is None or not disk_trouble(arguments.exc_value):
            otherwise(arguments)

    threading.excepthook = hook

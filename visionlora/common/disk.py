"""A disk that is full, read-only or gone, told in one sentence."""

from __future__ import annotations

import errno

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
    """What a user can do about an error of the disk, as one sentence; ``""`` for any other error.

    Libraries pass such errors on inside others of their own, which are looked through.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, OSError) and found.errno in _WHY:
            path = found.filename2 or found.filename
            where = path if isinstance(path, str) else "the files of this command"
            return f"{where}: {_WHY[found.errno]}. What was written before stands; the same command can be run again."
        seen.add(id(found))
        found = found.__cause__
    if "No space left on device" in str(error):  # libraries that write by code of their own
        return f"{_WHY[errno.ENOSPC]}. What was written before stands; the same command can be run again."
    return ""

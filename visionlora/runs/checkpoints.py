"""Checkpoints that survive: written whole, read back before the one before goes, and known when they are damaged. Free of torch
until one is loaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

from visionlora.common.errors import UserError
from visionlora.common.files import put_in_place, write_beside
from visionlora.runs.folder import RunFolder

_SEAL = b"visionlora sha256 "
"""Begins the comment at the end of the zip archive that ``torch.save`` writes; the hash of all bytes before the comment follows.
The hash is in the file, so that no crash can come between the two."""
_SEALED = len(_SEAL) + 64


def sealed(archive: bytes) -> bytes:
    """A zip archive without comment, with its hash as the comment."""
    body, comment_length = archive[:-2], archive[-2:]
    if comment_length != b"\0\0":
        raise ValueError("not a zip archive without comment")
    return body + _seal(body)


def _seal(body: bytes) -> bytes:
    return _SEALED.to_bytes(2, "little") + _SEAL + hashlib.sha256(body).hexdigest().encode()


def damage(path: Path) -> str:
    """What is wrong with a checkpoint file as a file, or ``""``.

    A file of an earlier version has no hash; the checksums of the zip archive stand in for it.
    """
    if not path.is_file():
        return "it is not a file"
    try:
        content = path.read_bytes()
    except OSError as error:
        return error.strerror or "not readable"
    body = content[: -_SEALED - 2]
    if content[len(body) :] == _seal(body):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment:
                return "its bytes are not those that were written"
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return "it is packed, as no checkpoint is"  # to how much, nobody knows before
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError):
        return "it is cut off or not a checkpoint" if content else "it is empty"
    return f"its entry {broken} is not what was written" if broken else ""


def write_checkpoint(path: Path, archive: bytes, previous: Path | None = None) -> None:
    """Put a checkpoint in the place of ``path``, once it has been read back from the disk; the one before it becomes ``previous``.

    Raises:
        UserError: what was read back is not what was written; the checkpoint before stands.
        OSError: it could not be written; the checkpoint before stands.
    """
    part = write_beside(path, sealed(archive))
    try:
        if wrong := damage(part):
            raise UserError(f"{path} could not be written: read back, {wrong}; the disk may be failing. The checkpoint before stands.")
        if previous is not None and path.is_file():
            _keep(path, previous)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    put_in_place(part, path)


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that there is no moment without it."""
    second = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        os.link(path, second)
    except OSError:  # a file system without hard links: for a moment ``previous`` is the only one
        os.replace(path, previous)
    else:
        os.replace(second, previous)
        second.unlink(missing_ok=True)  # renaming one of two names of the same file to the other does nothing


def checked_checkpoint(run: RunFolder, asked: str) -> Path:
    """The checkpoint that ``ckpt_path`` means; a damaged one of the run itself is told and put aside.

    Args:
        run: the folder of the run.
        asked: ``last``, ``best`` or a path.

    Raises:
        UserError: there is none, or none that is whole; a run never starts afresh when it was asked to go on.
    """
    candidates = {"last": [run.last, run.previous], "best": [run.best]}.get(asked, [Path(asked)])
    if asked in ("last", "best"):
        _look_after_best(run)
    there = [path for path in candidates if path.is_file()]
    for number, path in enumerate(there):
        if not (wrong := damage(path)):
            return path
        if number + 1 < len(there) and not damage(there[number + 1]):
            _say(f"{path} is damaged ({wrong}): going on from the checkpoint before it, {there[number + 1].name}.")
            _put_aside(path)
        elif asked == "last":
            names = " and ".join(str(each.name) for each in there)
            raise UserError(f"{run.checkpoints} holds no checkpoint that is whole ({names}: {wrong}); begin a new run, in another folder.")
        else:
            raise UserError(f"{path} is damaged or not a checkpoint: {wrong}.")
    raise UserError(f"ckpt_path={asked}: there is no checkpoint {candidates[0]}; name the run's folder with hydra.run.dir=DIR.")


def _look_after_best(run: RunFolder) -> None:
    """Say at once what would come out after hours: that the best checkpoint is gone or damaged."""
    if not run.best.is_file() or not (wrong := damage(run.best)):
        return
    _say(f"{run.best} is damaged ({wrong}): put aside.")
    _put_aside(run.best)


def _put_aside(path: Path) -> None:
    os.replace(path, path.with_name(f"{path.name}.damaged"))


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)

"""One process at a time works in a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from filelock import FileLock, Timeout

from visionlora.common.errors import UserError
from visionlora.common.files import inside
from visionlora.common.processes import process_rank
from visionlora.runs.folder import RunFolder


@contextlib.contextmanager
def claimed(run: RunFolder) -> Iterator[None]:
    """A context in which no other process begins in this folder or goes on with its run. The system gives the folder free when this
    process dies.

    The other processes of the same run belong to the one that has it.

    Raises:
        UserError: another process has it.
    """
    if process_rank():
        yield
        return
    run.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(inside(run.path, run.lock.name), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{run.path}: another process is at work here; wait for its end, or choose another hydra.run.dir.") from None
    try:
        yield
    finally:
        if not run.marker.exists():  # the run did not begin: the folder is left as it was
            with contextlib.suppress(OSError):
                run.lock.unlink(missing_ok=True)
        lock.release()

"""Functions in processes of their own, forked from one that has imported everything, with a heap that tells when it is broken.

A process that dies is a result with the signal's name, and takes nothing along. On Linux with glibc, ``MALLOC_CHECK_=3`` ends a process
that has written beyond its memory, and ``MALLOC_PERTURB_`` fills what is taken and given back, so that nothing works by chance.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WATCHED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
QUIET = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


class Ended(NamedTuple):
    """How a process ended: what its function returned, or why it did not, and all it wrote."""

    value: Any
    error: str
    text: str


class Forks:
    """Starts the processes. One for each program, and before anything else starts a fork server.

    Args:
        preload: modules that the processes find imported.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        os.environ.update(QUIET | (WATCHED if sys.platform == "linux" else {}))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 600) -> Ended:
        """``function(*args)``, whose value JSON can hold."""
        with tempfile.TemporaryDirectory() as folder:
            text, value = Path(folder, "text"), Path(folder, "value")
            process = self._context.Process(target=_call, args=(function, args, text, value))
            process.start()
            process.join(timeout)
            if process.is_alive():
                process.kill()
                process.join()
                return Ended(None, f"not finished after {timeout:.0f} s", "")
            code = process.exitcode or 0
            written = text.read_text(errors="replace") if text.is_file() else ""
            found = json.loads(value.read_text()) if value.is_file() and value.stat().st_size else None
        if code:
            said = [line for line in written.splitlines() if line.strip()]
            why = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            return Ended(None, f"{why}: {said[-1].strip()[:300]}" if said else why, written)
        return Ended(found, "", written)


def command(module: str, *overrides: str) -> None:
    """``python -m visionlora.MODULE OVERRIDES``, to be run by ``Forks``."""
    sys.argv = [f"visionlora.{module}", *overrides]
    runpy.run_module(f"visionlora.{module}", run_name="__main__", alter_sys=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], text: Path, value: Path) -> None:
    stream = os.open(text, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    os.environ.update(QUIET)
    multiprocessing.set_start_method(None, force=True)  # worker processes would be started by a server of their own, in five seconds
    try:
        value.write_text(json.dumps(function(*args)))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

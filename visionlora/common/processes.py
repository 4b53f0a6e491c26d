"""How processes end: children with their parent, and a command that is asked to terminate as one that Ctrl-C interrupts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

STARTED_BY = "VISIONLORA_STARTED_BY"
"""Environment variable in which a process tells those that it starts who is to outlive them."""
SEVERAL = "WORLD_SIZE"
"""Environment variable that is set while a job has several processes; Lightning's."""
_LOOK_EVERY = 0.2  # seconds
_GRACE = 2.0  # seconds
_PEER = "by peer"
"""In the messages of gloo and NCCL: the connection was closed, or reset, by it."""
PATIENCE = 10.0
"""Seconds in which a process that is in trouble has ended, and those that it started with it."""
TERMINATED = 128 + int(signal.SIGTERM)
"""The exit code of a process that was asked to terminate."""


def end_with(parent: int) -> None:
    """End this process as soon as ``parent`` is not its parent any more: killed, it cannot take its children along itself.

    Where it is not the parent now and has not started this process, nothing happens: a job that SLURM runs has been submitted by a
    process which may be gone.
    Whoever looks is a thread: the kernel's own way, ``PR_SET_PDEATHSIG``, is Linux's alone and goes by the parent's thread.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(TERMINATED)

    if os.getppid() == parent:
        threading.Thread(target=watch, name="ends with its parent", daemon=True).start()
    elif (starter := multiprocessing.parent_process()) is not None and starter.pid == parent:  # gone already
        os._exit(TERMINATED)


def sweep_workers_ending() -> None:
    """Let the processes of a parallel sweep end with this one, from their first moment on: without it, those that wait for their first
    job when this process is killed wait for ever.
    """
    from joblib.parallel import LokyBackend, register_parallel_backend

    class Ending(LokyBackend):
        def configure(self, *arguments: Any, **options: Any) -> Any:
            return super().configure(*arguments, **options, initializer=end_with, initargs=(os.getpid(),))

    register_parallel_backend("loky", Ending)


def peer_trouble(error: BaseException) -> str:
    """What is told where another process of the same run has ended, in a sentence; ``""`` for any other error."""
    lost = isinstance(error, RuntimeError) and _PEER in str(error)
    return "another process of this run has ended; what it has said is above." if lost else ""


def end_with_starter() -> bool:
    """``end_with`` whoever is named in the environment; returns whether that is the process which has started this one.

    It may be gone already: then nobody is left to work with, and this process ends.
    """
    starter = os.environ.get(STARTED_BY, "")
    if not starter.isdecimal() or int(starter) == os.getpid():
        return False
    if "LOCAL_RANK" in os.environ and os.name == "posix" and not _alive(int(starter)):  # Lightning sets it for those that it starts
        os._exit(TERMINATED)
    end_with(int(starter))
    return os.getppid() == int(starter)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def end_at_once() -> None:
    """End this process without taking the interpreter down, which takes seconds in which no thread looks after the parent any more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def worker_ending() -> Callable[[int], None]:
    """``worker_init_fn`` of a ``DataLoader``: its processes end with this one. Torch's own look after their parent every five seconds."""
    return partial(_end_worker, os.getpid())


def _end_worker(parent: int, worker: int) -> None:
    end_with(parent)


class Termination:
    """SIGTERM as Ctrl-C: everything that cleans up after a ``KeyboardInterrupt`` does so, and ``asked`` tells the two apart."""

    asked = False
    told = False
    """Whether the user has been told what stands."""
    _watching = False

    @classmethod
    def handle(cls) -> None:
        """From now on, the first SIGTERM interrupts this process."""
        ours = threading.current_thread() is threading.main_thread() and "SLURM_JOB_ID" not in os.environ  # there it is Lightning's
        if ours and not cls.asked:
            signal.signal(signal.SIGTERM, cls._interrupt)
            cls._watch()

    @classmethod
    def _watch(cls) -> None:
        """End the process some seconds after SIGTERM once the user has been told, or where it is one of several: it may wait for
        another one in code that Python's handlers cannot interrupt. What is written appears whole or not at all, so nothing is lost.
        """
        if cls._watching:
            return
        cls._watching = True
        reads, writes = socket.socketpair()
        writes.setblocking(False)
        if (other := signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)) != -1:
            signal.set_wakeup_fd(other)  # an event loop's, in a notebook
            return
        if hasattr(os, "register_at_fork"):  # what a child is sent is no matter of this process
            os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

        def watch(keep: socket.socket = writes) -> None:
            while int(signal.SIGTERM) not in reads.recv(64):
                pass
            several = SEVERAL in os.environ
            time.sleep(_GRACE)
            while not (several or cls.told):  # a process alone puts everything in order first
                time.sleep(_LOOK_EVERY)
            if not cls.told:
                print("terminated.", file=sys.stderr, flush=True)
            os._exit(TERMINATED)

        threading.Thread(target=watch, name="ends what SIGTERM does not", daemon=True).start()

    @classmethod
    def handles(cls) -> bool:
        """Whether SIGTERM comes here."""
        return signal.getsignal(signal.SIGTERM) == cls._interrupt

    @classmethod
    def _interrupt(cls, number: int, frame: FrameType | None) -> None:
        cls.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the cleaning up short
        raise KeyboardInterrupt


def process_rank() -> int:
    """Rank of this process among those of the job, also before they have met; 0 when it is the only one."""
    return next((int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0)

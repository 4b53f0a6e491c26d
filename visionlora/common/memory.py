"""Memory: how much is free, an end to it that raises an error, and that error told in one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from visionlora.common.errors import UserError

MESSAGES = ("not enough memory", "out of memory", "Cannot allocate memory", "bad_alloc", "could not create a memory")
"""Of CPU allocators (Linux, Windows, C++, oneDNN) and of MPS; Lightning knows CUDA's."""
ONEDNN = ("could not create a primitive", "could not execute a primitive")
"""All that oneDNN says where it gets no memory for its own; where it cannot do a thing at all, it speaks of a descriptor."""


class OutOfMemory(UserError):  # noqa: N818 as torch.OutOfMemoryError is told
    """The memory gave out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory that could not be had was the cause."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or is_oom_error(error):
        return True
    text = str(error).strip()
    return isinstance(error, RuntimeError) and (text in ONEDNN or any(message in text for message in MESSAGES))


@contextlib.contextmanager
def out_of_memory_told(batch_size: Callable[[], int]) -> Iterator[None]:
    """Inside, memory that gives out is one sentence, with the batch size as it is by then.

    Raises:
        OutOfMemory: with what to do about it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory with data.batch_size={batch_size()}. Set data.batch_size lower"
            " (trainer.accumulate_grad_batches makes up for it; trainer.on_oom=halve does both by itself, but not for boxes or masks);"
            " model.checkpointing=light and a smaller data.image_size take less."
            " `python -m visionlora.plan` with the same settings finds the batch size that fits."
        ) from None


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group if that has less."""
    return min(_machine_has_free(), *_groups_have_free())


def _machine_has_free() -> int:
    try:  # what is free, and what the system would give back
        lines = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
        return int(lines.split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system: a guess that is safe on most
        return 2**32


def _groups_have_free() -> list[int]:
    """Free bytes of the control group as a container sees it, of version 2 and of version 1; ``[2**63]`` where there is no limit."""
    free = [2**63]
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            root = Path("/sys/fs/cgroup")
            free.append(max(int((root / limit).read_text()) - int((root / used).read_text()), 0))
    return free


@contextlib.contextmanager
def memory_has_an_end(share: float = 0.8) -> Iterator[None]:
    """Inside, more than ``share`` of the free memory is an error that can be handled: on a CPU under Linux, allocating more than the
    machine has would kill the process. Elsewhere the allocators raise one anyway.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
        taken = pages * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError, IndexError):  # not Linux
        yield
        return
    if torch.cuda.is_available():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    end = taken + int(share * available_memory())
    known = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(end, *known) if known else end, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)

"""Several processes for one job, where Lightning runs this process's command line again; and jobs that SLURM runs again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import flag_override

from visionlora.common.processes import STARTED_BY, process_rank

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", STARTED_BY)


@contextlib.contextmanager
def own_command_line(folder: Path, more: Sequence[str] = ()) -> Iterator[None]:
    """A context in which ``sys.argv`` holds the overrides of this one job, those of ``more`` and its run folder, instead of the sweep's.
    What DDP leaves behind is cleared away afterwards.

    Without it, the second process of a job in a multirun would start the whole sweep again, in a folder of its own.
    """
    hydra_config: Any = HydraConfig.instance().cfg
    assert hydra_config is not None
    main = sys.modules["__main__"]
    before, spec, environment = list(sys.argv), main.__spec__, {key: os.environ.get(key) for key in _RENDEZVOUS}
    with flag_override(hydra_config.hydra.run, "readonly", False):
        hydra_config.hydra.run.dir = str(folder)  # Lightning appends it to the command line it runs
    flags = [word for word in before[1:] if word.startswith(("--config-dir", "-cd"))]
    sys.argv = [before[0], *flags, *HydraConfig.get().overrides.task, *more]
    main.__spec__ = importlib.util.find_spec("visionlora.train")  # from the console script too, it runs `python -m visionlora.train`
    os.environ[STARTED_BY] = str(os.getpid())
    try:
        yield
    finally:
        sys.argv, main.__spec__ = before, spec
        for key, value in environment.items():
            if value is None:
                os.environ.pop(key, None)
        _leave_group()


def requeued() -> bool:
    """Whether SLURM runs this job again, after it was preempted or asked for more time."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def requeued_on_signal() -> Iterator[None]:
    """Inside a SLURM job, SIGUSR1 (``#SBATCH --signal=USR1@120``) puts the job into the queue again.

    Lightning would save a checkpoint in the middle of the epoch, from which no run goes on exactly. Here the last whole epoch stands, and
    the same command goes on from it. A handler that is there already, such as submitit's, is left alone.
    """
    job = os.environ.get("SLURM_JOB_ID")
    number = getattr(signal, "SIGUSR1", None)  # Windows has none
    main = threading.current_thread() is threading.main_thread()
    if job is None or number is None or not main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"

    def requeue(*_: Any) -> None:
        if process_rank():
            return
        try:
            code = subprocess.call(["scontrol", "requeue", job])  # SLURM then ends this process
        except OSError as error:
            code = error.errno or 1
        if code:
            print(f"SIGUSR1: scontrol requeue {job} failed ({code}); the run goes on until SLURM ends it.", file=sys.stderr)

    before = signal.signal(number, requeue)
    try:
        yield
    finally:
        signal.signal(number, before)


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

"""Several processes for one job: Lightning starts the others by running this process's command line again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import flag_override

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextlib.contextmanager
def own_command_line(folder: Path, more: Sequence[str] = ()) -> Iterator[None]:
    """Inside, ``sys.argv`` holds this one job's overrides, those of ``more`` and its run folder, not the sweep's; what DDP leaves is
    cleared away after.

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
    try:
        yield
    finally:
        sys.argv, main.__spec__ = before, spec
        for key, value in environment.items():
            if value is None:
                os.environ.pop(key, None)
        _leave_group()


def process_rank() -> int:
    """Rank of this process among those of the job, also before they have met; 0 when it is the only one."""
    return next((int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0)


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

"""What a function leaves of the process it was called in: everything as it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator

import numpy as np
import torch

from visionlora.common.processes import Termination
from visionlora.common.quiet import quietly

_ENVIRONMENT = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")
"""Variables that Lightning sets for the processes it starts."""


@contextlib.contextmanager
def process_as_before() -> Iterator[None]:
    """A context in which a run may seed, set flags and be quiet. Afterwards the process is as it was, also after an error.

    That is: random states (Python's, NumPy's, torch's), levels of loggers, filters of warnings, torch's threads, default type and
    settings of determinism, what handles SIGTERM, and the environment variables that Lightning sets.
    """
    environment = {key: os.environ.get(key) for key in _ENVIRONMENT}
    main = threading.current_thread() is threading.main_thread()
    # A command handles it already, and once it came it is ignored until everything is cleaned up.
    handler = signal.getsignal(signal.SIGTERM) if main and not Termination.handles() else None
    with quietly(), _random_states(), _torch_settings():
        try:
            yield
        finally:
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)
            for key, value in environment.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 the global one is what others may have seeded
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def _torch_settings() -> Iterator[None]:
    threads, dtype, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    deterministic, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        torch.backends.cudnn.benchmark = benchmark

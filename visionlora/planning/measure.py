"""The plan of a run: an abridged one is measured in a process of its own, and what it left out is added."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.memory import OutOfMemory, available_memory, memory_has_an_end
from visionlora.common.processes import end_with
from visionlora.common.quiet import quiet
from visionlora.data.module import USUAL_BATCH, ImageData
from visionlora.planning.abridged import Abridged
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.training.adapted import Adapted
from visionlora.training.callbacks import peak_memory_mib
from visionlora.training.folds import Folds
from visionlora.training.kept import Strength, Tried
from visionlora.training.run import run
from visionlora.training.strength import UPDATES
from visionlora.training.trainer import bare_trainer

SHARE = 0.95
"""Of the free memory, beyond which a run is taken not to fit."""
BARE: dict[str, Any] = {"enable_progress_bar": False, "profiler": None, "min_epochs": None, "lr_find": False, "check_val_every_n_epoch": 1}
"""What a plan changes of ``trainer``: it ends early, and has a validation all the same."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        figures: of the abridged run, under the names of ``results.json``, and ``planned`` ones beside them.
        seconds: what the whole run spends its time on; ``fit`` is the sum that ``seconds/fit`` will be, ``total`` that of everything.
        bytes: of the run folder at its end, by what they are; ``cache`` on the disk while it trains; ``part``, one more checkpoint.
        available: bytes of memory that were free.
        asked: ``data.batch_size`` that does not fit into memory, or ``None``; the figures are for the one that does.
    """

    figures: Mapping[str, Any]
    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    available: int
    asked: int | None = None


def plan(config: TrainConfig) -> Plan:
    """Measure what ``visionlora.train`` will take with ``config``; leaves nothing behind.

    Where memory does not suffice, the batch size is halved until it does.

    Raises:
        UserError: as ``training.run``; not even one image fits; or the run is to be one of several processes, or a resumed one.
    """
    if config.ckpt_path is not None:
        raise UserError("ckpt_path: a plan is for a whole run, from its start; leave it out.")
    size, asked = config.data.batch_size, None
    while True:
        try:
            found = _measured(replace(config, data=replace(config.data, batch_size=size)))
            return replace(found, asked=asked)
        except OutOfMemory:
            if size == 1 or config.trainer.get("batch_size") == "auto":
                raise
            size = size or USUAL_BATCH
            asked = asked or size
            size //= 2


def _measured(config: TrainConfig) -> Plan:
    """What an abridged run measures. It is a process of its own, so that the memory it takes is its own, and that it may run out of it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="visionlora-plan-") as folder:
        process = context.Process(target=_measure, args=(config, Path(folder), os.getpid(), sender))
        with _temporary_files_in(folder):  # what is left when the process is killed goes with the folder
            process.start()
        sender.close()
        try:
            found = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode == -signal.SIGKILL:  # by the system, which is out of memory
                raise OutOfMemory(f"out of memory with data.batch_size={config.data.batch_size}: the system has ended the run.") from None
            raise RuntimeError(f"the abridged run ended with {process.exitcode}") from None
        finally:
            process.kill()
            process.join()
    if isinstance(found, BaseException):
        raise found
    assert isinstance(found, Plan)
    return found


@contextlib.contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """A context in which processes that are started put their temporary files into the folder, those of libraries too."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _measure(config: TrainConfig, folder: Path, starter: int, sender: Connection) -> None:
    """The child process: sends a ``Plan`` or an error."""
    end_with(starter)
    quiet()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the figures of an abridged run say nothing
    try:
        sender.send(abridged_run(config, folder / "run"))
    except UserError as error:
        sender.send(error)
    except Exception as error:  # with its traceback, here
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))
        raise


def abridged_run(config: TrainConfig, folder: Path) -> Plan:
    """The plan of a run from its beginning, in this process; that run's folder stays.

    Raises:
        UserError: see ``plan``.
    """
    validate_every = config.trainer.get("check_val_every_n_epoch") or 1
    whole = replace(config.data, progressive=None, prune=0.0)  # what these save comes after the beginning that is measured
    config = replace(config, trainer=config.trainer | BARE, callbacks={}, logger={}, data=whole)
    _refuse_several_processes(config)
    available, at_start = available_memory(), peak_memory_mib()
    abridged = Abridged(validate_every)
    with memory_has_an_end(SHARE):
        results = run(config, folder, [abridged], _not_validated)
    left = abridged.left_out
    fit = results["seconds/fit"] + left["training"] + left["validation"] + left["epochs"]
    spent = {key: abridged.figures.pop(f"seconds/{key}") for key in ("step", "training", "validation", "epochs")}
    folds = _folds_seconds(results, spent["training"], int(abridged.figures["epochs"]))
    total = results["seconds/total"] + sum(left.values()) + folds
    cache = results["seconds/cache"] + left["cache"]
    seconds = {"cache": cache, "fit": fit, "folds": folds, "measuring": total - fit - cache - folds, "total": total} | spent
    figures = results | abridged.figures | {"memory/start_mib": at_start}
    return Plan(figures, seconds, _bytes(RunFolder(folder), int(abridged.figures["epochs"]), abridged.features), available)


def _not_validated(config: TrainConfig, adapted: Adapted, data: ImageData) -> Folds:
    """In place of the folds, whose time is reckoned from that of the run itself: all of the update is kept."""
    return Folds(data.folds, Strength(Tried(1.0, 1.0, 0.0, 0.0), folds=data.folds), {})


def _folds_seconds(results: Mapping[str, Any], training: float, epochs: int) -> float:
    """What cross-validation takes: each fold trains without its share of the images, and every image is looked at by each model between.
    A look is a third of a training step.
    """
    folds = int(results["folds"])
    return (folds - 1) * training + len(UPDATES) / 3 * training / max(epochs, 1) if folds else 0.0


def _refuse_several_processes(config: TrainConfig) -> None:
    processes = bare_trainer(config).world_size
    if processes > 1:
        raise UserError(f"the run is one of {processes} processes, and a plan measures one: set trainer.devices=1 trainer.strategy=auto.")


def _bytes(run_folder: RunFolder, epochs: int, features: Mapping[str, int]) -> dict[str, int]:
    """Bytes of the run folder at its end, and of what there is beside it while the run trains."""

    def size(path: Path) -> int:
        return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())

    checkpoint = size(run_folder.last)
    checkpoints = size(run_folder.best) + checkpoint * min(epochs, 2)  # the last one, and the one before it
    adapter, base = size(run_folder.adapter), size(run_folder.base)
    rest = size(run_folder.path) - size(run_folder.checkpoints) - adapter - base
    return {
        "checkpoints": checkpoints,
        "adapter": adapter,
        "base": base,
        "rest": rest,
        "folder": checkpoints + adapter + base + rest,
        "part": checkpoint,
        "cache": features["disk"],
    }

"""Where a run goes, what it goes on from, and how it says so when it is cut short."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.processes import peer_trouble, process_rank
from visionlora.runs.again import repeated_run
from visionlora.runs.checkpoints import checked_checkpoint
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder


@dataclass(frozen=True)
class Place:
    """Where a run goes.

    Args:
        folder: of the run.
        checkpoint: the file that it starts from, if any.
        resuming: the checkpoint is this folder's own, so the run in it goes on.
        known: the folder of the run that goes on, or that is run again: it has decided already what a new run decides (the split, the
            ranks, a base that cannot be had again); ``None`` for a new run.
    """

    folder: RunFolder
    checkpoint: Path | None
    resuming: bool
    known: RunFolder | None


def find_place(config: TrainConfig, path: Path) -> Place:
    """The place of the run in the folder ``path``; nothing is written.

    Raises:
        UserError: the checkpoint is not there or damaged (a run never starts afresh when it was asked to resume), or the folder has files
            that are not a run's.
    """
    folder = RunFolder(path)
    checkpoint = checked_checkpoint(folder, config.ckpt_path) if config.ckpt_path is not None else None
    resuming = checkpoint is not None and checkpoint.resolve().parent == folder.checkpoints.resolve()
    if not resuming and not process_rank():
        folder.refuse_foreign()
    return Place(folder, checkpoint, resuming, folder if resuming else repeated_run(config))


@contextlib.contextmanager
def resumable(trainer: L.Trainer, run_folder: RunFolder) -> Iterator[None]:
    """A context in which Ctrl-C ends in ``KeyboardInterrupt`` (Lightning has put everything in order by then) and an error of the disk, or
    the end of another process of the run, in ``UserError``, both with a word on how to go on.
    """
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"in epoch {trainer.current_epoch + 1}; {_how_to_go_on(run_folder)}") from None
    except Exception as error:
        if process_rank() or not (trouble := disk_trouble(error) or peer_trouble(error)):
            raise
        how = _how_to_go_on(run_folder)
        raise UserError(f"{trouble} {how[0].upper()}{how[1:]}.") from error


def _how_to_go_on(run_folder: RunFolder) -> str:
    if not run_folder.path.is_dir():
        return "go on with the folder where it is now, if it was moved: ckpt_path=last hydra.run.dir=THERE"
    if run_folder.resumable:
        return f"go on with: ckpt_path=last hydra.run.dir={run_folder.path}"
    return "no epoch was finished, so there is no checkpoint"

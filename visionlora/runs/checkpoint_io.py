"""Lightning's checkpoints, written and read by way of ``runs.checkpoints``."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside, inside
from visionlora.common.processes import process_rank
from visionlora.common.typed import typed
from visionlora.runs.checkpoints import damage, write_checkpoint
from visionlora.runs.folder import RunFolder
from visionlora.runs.log import HASH
from visionlora.runs.metrics import RunLogger
from visionlora.tasks.measure import Measure


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file, read weights-only onto the CPU.

    Raises:
        UserError: it is damaged or not a checkpoint.
    """
    if wrong := damage(path):
        raise UserError(f"{path} is damaged or not a checkpoint: {wrong}.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is in a stranger's file fails in many ways
        raise UserError(f"{path} is damaged or not a checkpoint: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} is damaged or not a checkpoint: it holds a {type(loaded).__name__}.")
    return loaded


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that a run can go on from, see ``read_checkpoint``.

    Raises:
        UserError: it is damaged, or something is not in it.
    """
    loaded = read_checkpoint(path)
    if not isinstance(loaded.get("visionlora"), dict):
        raise UserError(f"{path} was not written by visionlora.")
    try:
        typed(_Checkpoint, loaded, more=True)
    except ValueError as error:
        raise UserError(f"{path} is damaged or not a checkpoint: {error}.") from None
    return loaded


@dataclass(frozen=True)
class _Checkpoint:
    """What a checkpoint of a run holds, beside what versions of Lightning add."""

    epoch: int
    global_step: int
    state_dict: dict[str, Any]
    optimizer_states: list[Any]
    lr_schedulers: list[Any]

    def __post_init__(self) -> None:
        if min(self.epoch, self.global_step) < 0:
            raise ValueError("its epoch or global_step is negative")
        for key, value in self.state_dict.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{key[:80]!r} in it is a {type(value).__name__}, and not a tensor")


class RunCheckpoints(TorchCheckpointIO):
    """Writes the checkpoints of a run folder; what is written elsewhere, such as SLURM's, is as safe, without the one before it.

    A checkpoint holds a hash of the log up to its step, so that a resume knows whether that is damaged.

    Lightning's own way leads through the temporary folder, from which a file is copied where that is another disk.
    """

    def __init__(self, run: RunFolder, log: RunLogger | None = None) -> None:
        self.run, self.log = run, log

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; the last checkpoint keeps the one before it."""
        target, buffer = Path(path), io.BytesIO()
        if self.log is not None:
            checkpoint[HASH] = self.log.digest(checkpoint["global_step"])
        torch.save(checkpoint, buffer)
        previous = None
        if target.parent.resolve() == self.run.checkpoints.resolve():
            folder_inside(self.run.path, self.run.checkpoints.name)
            target = inside(self.run.path, self.run.checkpoints.name, target.name)
            previous = self.run.previous if target.name == self.run.last.name else None
        write_checkpoint(target, buffer.getvalue(), previous)

    def load_checkpoint(self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, weights-only whoever asks.

        Raises:
            UserError: it is damaged or not a checkpoint.
        """
        return read_checkpoint(Path(path))


class PlacedCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that remembers its files by name alone, so that a run may be moved.

    Lightning's forgets the best score where the folder's path differs, and the next epoch would replace a better one.
    """

    @property
    def state_key(self) -> str:
        """Lightning's own, so that checkpoints of earlier versions are understood."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        """The state with names in place of paths."""
        return self._with_paths(super().state_dict(), lambda path: Path(path).name) | {"dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, unless the file that it tells of is not there: a score without a file would win over every epoch to come."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)
        state = self._with_paths(state_dict, lambda path: str(folder / Path(path).name)) | {"dirpath": self.dirpath}
        best = state["best_model_path"]
        if self.monitor is None or not best or Path(best).is_file():
            super().load_state_dict(state)

    @staticmethod
    def _with_paths(state: dict[str, Any], change: Any) -> dict[str, Any]:
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        changed = {key: change(value) if value else value for key, value in state.items() if key in paths}
        return state | changed | {"best_k_models": {change(path): score for path, score in state.get("best_k_models", {}).items()}}


def checkpoints(run: RunFolder, best_by: Measure | None, within_epochs: bool = False) -> list[Callback]:
    """``last.ckpt`` after each epoch; and ``best.ckpt`` by this measure on the validation part, where one is given.

    Args:
        run: where they are written.
        best_by: what the best one is best in.
        within_epochs: there are validations within an epoch, and the best of them all is kept.
    """
    common: dict[str, Any] = {"dirpath": run.checkpoints, "save_on_train_epoch_end": True, "enable_version_counter": False}
    last = PlacedCheckpoint(filename=run.last.stem, every_n_epochs=1, **common)
    if best_by is None:
        return [last]
    # The best one first: the last checkpoint then knows of it, and a resumed run does not take a worse epoch for the best.
    best: dict[str, Any] = {"monitor": f"val/{best_by.key}", "mode": "max" if best_by.higher else "min"}
    return [PlacedCheckpoint(filename=run.best.stem, **best, **common | {"save_on_train_epoch_end": not within_epochs}), last]


def say_if_best_is_gone(run: RunFolder, checkpoint: dict[str, Any]) -> None:
    """Say at the start of a resume, not at its end, that the best checkpoint of the epochs before is missing."""
    states = checkpoint.get("callbacks")
    chosen = isinstance(states, dict) and any(
        isinstance(state, dict) and state.get("monitor") and state.get("best_model_path") for state in states.values()
    )
    if chosen and not run.best.is_file() and not process_rank():
        print(f"{run.best} is missing: the best of the epochs to come takes its place.", file=sys.stderr)

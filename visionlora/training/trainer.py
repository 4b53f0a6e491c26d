"""Lightning's Trainer from a run's config, with a word for what it cannot meet."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.memory import memory_has_an_end
from visionlora.common.trainer_config import OURS
from visionlora.data.module import ImageData
from visionlora.runs.checkpoint_io import RunCheckpoints, checkpoints, read_run_checkpoint, say_if_best_is_gone
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.runs.metrics import RunLogger
from visionlora.tasks.measure import Measure
from visionlora.training.callbacks import AdaptiveRanks, Stopwatch, Terminable
from visionlora.training.module import TaskModule
from visionlora.training.precision import auto_precision

WRONG_VALUE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""What Lightning and torch raise where a checkpoint holds something else than they expect."""


def build_trainer(
    config: TrainConfig, run_folder: RunFolder, checkpoint: Path | None, best_by: Measure | None, more: Sequence[Callback] = ()
) -> tuple[L.Trainer, Stopwatch]:
    """Lightning's Trainer from ``config.trainer``, with this run's callbacks and loggers.

    Args:
        config: of the run.
        run_folder: where checkpoints and logs go.
        checkpoint: that the run goes on from.
        best_by: the measure on the validation part that chooses the best epoch; ``None`` where there is no validation part.
        more: callbacks beside those of the config.

    Raises:
        UserError: an argument Lightning does not know or cannot meet here.
    """
    arguments = lightning_arguments(config)
    callbacks = [_instantiate("callbacks", name, node) for name, node in config.callbacks.items()]
    monitors = [c.monitor for c in callbacks if str(getattr(c, "monitor", "")).startswith("val/")]
    if monitors and best_by is None:
        raise UserError(f"callbacks: one waits for {monitors[0]}, but there is no validation part; set data.val_fraction above 0.")
    if not arguments.get("enable_progress_bar", True):
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.ProgressBar)]
    stopwatch = Stopwatch()
    adaptive = [AdaptiveRanks(config.lora.adaptive, run_folder.last)] if config.lora.method == "adalora" else []
    if adaptive:  # before the end its ranks are beyond the budget
        best_by = None
    log = RunLogger(run_folder, _resumed(checkpoint, run_folder))
    loggers: list[Any] = [
        log,
        *(_instantiate("logger", name, _own(node, run_folder)) for name, node in config.logger.items()),
    ]
    try:
        trainer = L.Trainer(
            **arguments,
            callbacks=[
                *callbacks,
                *more,
                *adaptive,
                stopwatch,
                Terminable(),
                *checkpoints(run_folder, best_by, within_epochs="val_check_interval" in arguments),
            ],
            logger=loggers,
            plugins=[RunCheckpoints(run_folder, log)],
            default_root_dir=run_folder.path,
            use_distributed_sampler=False,  # EpochSampler shares out the images itself
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None
    return trainer, stopwatch


def bare_trainer(config: TrainConfig) -> L.Trainer:
    """A Trainer as the run's, which keeps nothing and shows nothing.

    Raises:
        UserError: an argument Lightning does not know or cannot meet here.
    """
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    try:
        return L.Trainer(**lightning_arguments(config) | quiet, num_sanity_val_steps=0, use_distributed_sampler=False)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def lightning_arguments(config: TrainConfig) -> dict[str, Any]:
    """``config.trainer`` as Lightning's Trainer takes it.

    Raises:
        UserError: an argument Lightning does not know or cannot meet here.
    """
    arguments = {key: value for key, value in config.trainer.items() if value is not None and key not in OURS}
    if isinstance(arguments.get("val_check_interval"), int):
        arguments["check_val_every_n_epoch"] = config.trainer.get("check_val_every_n_epoch")  # null means something there
    if arguments.get("precision") == "auto":
        arguments["precision"] = auto_precision(str(arguments.get("accelerator", "auto")))
    if arguments.get("sync_batchnorm") and config.model.freeze_bn:
        raise UserError("trainer.sync_batchnorm=true would let the frozen statistics move; set model.freeze_bn=false with it.")
    if arguments.get("strategy") == "ddp" and config.model.freeze_bn:
        known = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch renamed it
        options: dict[str, Any] = {name: False}
        arguments["strategy"] = DDPStrategy(**options)  # they do not move, and folded copies of them need not be made anew
    return arguments


def check_hardware(config: TrainConfig) -> None:
    """Make sure that this machine has what ``trainer.accelerator`` and ``trainer.devices`` ask for; asked before anything is read.

    Raises:
        UserError: no such accelerator or strategy, or more processes than the CPU has cores.
    """
    accelerator, devices = str(config.trainer.get("accelerator") or "auto"), config.trainer.get("devices")
    known = ("auto", "gpu", *AcceleratorRegistry)
    if accelerator not in known:
        raise UserError(f"trainer.accelerator={accelerator} is unknown; it is one of {', '.join(known)}.{did_you_mean(accelerator, known)}")
    strategy, strategies = str(config.trainer.get("strategy") or "auto"), ("auto", *StrategyRegistry)
    if strategy not in strategies:
        raise UserError(f"trainer.strategy={strategy} is unknown; auto and ddp are the usual ones.{did_you_mean(strategy, strategies)}")
    if any(way in strategy for way in ("spawn", "fork", "notebook")):
        raise UserError(
            f"trainer.strategy={strategy} starts new processes for every step of a run, training and test; take trainer.strategy=ddp,"
            " which starts them once."
        )
    there = [name for name, registered in AcceleratorRegistry.items() if registered["accelerator"].is_available()]
    if (accelerator == "gpu" and not {"cuda", "mps"} & set(there)) or accelerator not in ("auto", "gpu", *there):
        raise UserError(
            f"trainer.accelerator={accelerator}: torch {torch.__version__} finds none here; there is {', '.join(there)}. Leave it out to"
            " take what is there."
        )
    if there != ["cpu"] and accelerator != "cpu":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(devices, int | str | None) or str(devices).startswith("-") or "," in str(devices):
        raise UserError(f"trainer.devices={devices} on a CPU must be a number of processes, 1 to {cores}, or auto.")
    if str(devices).isdecimal() and int(str(devices)) > cores:
        raise UserError(f"trainer.devices={devices} is more processes than this machine has cores; at most trainer.devices={cores} here.")


def fit(trainer: L.Trainer, module: TaskModule, data: ImageData, checkpoint: Path | None, stopwatch: Stopwatch) -> None:
    """``trainer.fit``; a checkpoint that cannot be gone on from is told in one sentence.

    Args:
        trainer: of this run.
        module: what it trains.
        data: what it trains on.
        checkpoint: to go on from, or ``None``.
        stopwatch: among the trainer's callbacks; knows whether the training has begun.
    """
    try:
        with memory_has_an_end() if module.portions.halve else contextlib.nullcontext():
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except (*WRONG_VALUE, RuntimeError) as error:
        # A checkpoint is sound when a whole epoch has gone on from it; that memory or another process gives out is no fault of it.
        if checkpoint is None or stopwatch.epochs or (stopwatch.training and isinstance(error, RuntimeError)):
            raise
        if "parameter group" in str(error):
            raise UserError(f"ckpt_path={checkpoint} was written with another optimizer or other learning-rate groups: {error}.") from None
        raise UserError(f"ckpt_path={checkpoint} is damaged or of another run: it cannot be gone on from ({_reason(error)}).") from error


@contextlib.contextmanager
def read_from(checkpoint: Path | None) -> Iterator[None]:
    """A context in which Lightning reads a checkpoint that may be anybody's.

    Raises:
        UserError: what is in it is not what belongs there.
    """
    try:
        yield
    except WRONG_VALUE as error:
        raise UserError(f"{checkpoint} is damaged or not a checkpoint of this run ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _own(node: Any, run_folder: RunFolder) -> Any:
    """Where a search runs many, a logger of this job's folder writes into the run's."""
    elsewhere = HydraConfig.initialized() and isinstance(node, dict) and node.get("save_dir") == HydraConfig.get().runtime.output_dir
    return node | {"save_dir": str(run_folder.path)} if elsewhere else node


def _instantiate(group: str, name: str, node: Any) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}.{name} needs a _target_, the class to make.")
    try:
        return hydra.utils.instantiate(node)
    except Exception as error:  # whatever the class raises
        reason = " ".join(str(error.__cause__ or error).split())
        extra = (
            f' Install it with: pip install "visionlora[{name}]"' if group == "logger" and "ModuleNotFound" in repr(error.__cause__) else ""
        )
        raise UserError(f"{group}.{name}: {node['_target_']} cannot be made: {reason}.{extra}") from None


def _resumed(checkpoint: Path | None, run_folder: RunFolder) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    loaded = read_run_checkpoint(checkpoint)
    if checkpoint.resolve().parent == run_folder.checkpoints.resolve():
        say_if_best_is_gone(run_folder, loaded)
    return loaded

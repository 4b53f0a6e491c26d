"""What a run measures before and after the training."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning as L

from visionlora.common.console import console
from visionlora.data.every_view import all_predicted
from visionlora.data.module import ImageData
from visionlora.evaluation.baseline import BaselineData, FrozenFeatures
from visionlora.runs.checkpoint_io import read_run_checkpoint
from visionlora.runs.config import TrainConfig
from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.outcome import outcome_of
from visionlora.tasks.words import in_words
from visionlora.training.adapted import Adapted
from visionlora.training.module import TaskModule
from visionlora.training.place import Place
from visionlora.training.settling import outputs_for
from visionlora.training.strength import CHANCE, MOST
from visionlora.training.trainer import read_from

BASELINE_PER_GROUP = 50
"""Training images of each group of the task (class) that the baseline of ``test_before`` learns from."""


def measure_before(trainer: L.Trainer, adapted: Adapted, data: ImageData) -> dict[str, float]:
    """``test_before/*``: the task's baseline on the features of the untouched backbone; nothing where the task has none."""
    learner = data.task.baseline()
    if "test" not in data.parts or learner is None:
        return {}
    baseline = FrozenFeatures(adapted.model, adapted.info.head[0], data.task, learner)
    try:
        trainer.validate(baseline, BaselineData(data, BASELINE_PER_GROUP), verbose=False)
        if not baseline.ready:  # trainer.limit_val_batches=0
            return {}
        trainer.test(baseline, BaselineData(data, BASELINE_PER_GROUP), verbose=False)
    finally:
        baseline.close()
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def load_best(config: TrainConfig, trainer: L.Trainer, module: TaskModule, data: ImageData, place: Place) -> str:
    """Put the best checkpoint into the module, or the last where nothing chose a best one; its name, ``none`` where no epoch was trained.

    Under a recipe but ``plain`` an epoch before the last is the best only where it is better beyond a chance of one in three. Before the
    learning rate has come down, an epoch that has one validation image more right is mostly so by chance, and worse on other images.

    Args:
        config: of the run.
        trainer: that has trained it.
        module: that was trained.
        data: its images.
        place: of the checkpoints.

    Raises:
        UserError: that checkpoint is one that a run which goes on has found, and holds what does not belong there.
    """
    run_folder = place.folder
    best = "val" in data.parts and run_folder.best.is_file()
    path = run_folder.best if best else run_folder.last if run_folder.last.is_file() else None
    if path is None:
        return "none"
    with read_from(path) if place.resuming else contextlib.nullcontext():
        checkpoint = read_run_checkpoint(path)
        module.on_load_checkpoint(checkpoint)
    if not best or not run_folder.last.is_file() or not _last_is_usual(config, trainer, data):
        return path.stem
    with read_from(run_folder.last) if place.resuming else contextlib.nullcontext():
        last = read_run_checkpoint(run_folder.last)
        if last["global_step"] == checkpoint["global_step"]:
            return path.stem
        first = _on_validation(trainer, module, data)
        module.on_load_checkpoint(last)
    if _better_by_chance(first, _on_validation(trainer, module, data), int(checkpoint["epoch"]) + 1):
        return run_folder.last.stem
    module.on_load_checkpoint(read_run_checkpoint(path))  # again: loading has taken it apart
    return path.stem


def _last_is_usual(config: TrainConfig, trainer: L.Trainer, data: ImageData) -> bool:
    """Whether the last epoch is the one to be expected to be best: the schedule has come to its end; and whether that can be tested."""
    finished = config.optim.schedule != "constant" and (
        trainer.current_epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
    )
    can_be_tested = trainer.world_size == 1 and all_predicted(trainer) and len(data.parts["val"]) <= MOST
    return config.recipe.name != "plain" and finished and can_be_tested


def _on_validation(trainer: L.Trainer, module: TaskModule, data: ImageData) -> Outcome:
    return outcome_of(data.task, "val", *outputs_for(trainer, module, data, "val"), data.readable("val"))


def _better_by_chance(best: Outcome, last: Outcome, epoch: int) -> bool:
    """Whether the best epoch may be so by chance; if so, it is said."""
    p = best.p_against(last)
    if p is None or p < CHANCE:
        return False
    lead, task = last.task.leading(), type(last.task)
    scores = [in_words(lead.key, outcome.metrics()[f"val/{lead.key}"], task) for outcome in (last, best)]
    count = len(last.targets)
    console.print(
        f"The last epoch is kept: {lead.words} {scores[0]} on the {count} validation images; epoch {epoch} with {scores[1]} is not"
        " better beyond chance.",
        highlight=False,
    )
    return True


def measure_after(trainer: L.Trainer, module: TaskModule, data: ImageData) -> dict[str, Any]:
    """``val/*`` and ``test/*`` of the module as it is."""
    results: dict[str, Any] = {}
    if "val" in data.parts:
        results |= dict(*trainer.validate(module, data, verbose=False))
    if "test" in data.parts:
        results |= dict(*trainer.test(module, data, verbose=False))
    return results

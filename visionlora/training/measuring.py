"""What a run measures before and after the training."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning as L

from visionlora.data.module import ImageData
from visionlora.evaluation.baseline import BaselineData, FrozenFeatures
from visionlora.runs.checkpoint_io import read_run_checkpoint
from visionlora.training.adapted import Adapted
from visionlora.training.module import TaskModule
from visionlora.training.place import Place
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


def load_best(module: TaskModule, data: ImageData, place: Place) -> str:
    """Put the best checkpoint into the module, or the last where nothing chose a best one; its name, ``none`` where no epoch was trained.

    Raises:
        UserError: that checkpoint is one that a run which goes on has found, and holds what does not belong there.
    """
    run_folder = place.folder
    best = "val" in data.parts and run_folder.best.is_file()
    path = run_folder.best if best else run_folder.last if run_folder.last.is_file() else None
    if path is None:
        return "none"
    with read_from(path) if place.resuming else contextlib.nullcontext():
        module.on_load_checkpoint(read_run_checkpoint(path))
    return path.stem


def measure_after(trainer: L.Trainer, module: TaskModule, data: ImageData) -> dict[str, Any]:
    """``val/*`` and ``test/*`` of the module as it is."""
    results: dict[str, Any] = {}
    if "val" in data.parts:
        results |= dict(*trainer.validate(module, data, verbose=False))
    if "test" in data.parts:
        results |= dict(*trainer.test(module, data, verbose=False))
    return results

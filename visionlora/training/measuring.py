"""What a run measures before and after the training."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning as L

from visionlora.data.module import ImageData
from visionlora.tasks.baseline import BaselineData, NearestClassMean
from visionlora.training.adapted import Adapted
from visionlora.training.classifier import Classifier
from visionlora.training.place import Place
from visionlora.training.trainer import read_from

BASELINE_PER_CLASS = 50
"""Training images a class from which the class means of ``test_before`` are taken."""


def measure_before(trainer: L.Trainer, adapted: Adapted, data: ImageData) -> dict[str, float]:
    """``test_before/*``: the nearest class mean on the features of the untouched backbone."""
    if "test" not in data.parts:
        return {}
    baseline = NearestClassMean(adapted.model, adapted.info.head[0], len(data.classes))
    try:
        trainer.validate(baseline, BaselineData(data, BASELINE_PER_CLASS), verbose=False)
        if not baseline.ready:  # trainer.limit_val_batches=0
            return {}
        trainer.test(baseline, BaselineData(data, BASELINE_PER_CLASS), verbose=False)
    finally:
        baseline.close()
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def measure_after(trainer: L.Trainer, module: Classifier, data: ImageData, place: Place) -> dict[str, Any]:
    """``val/*`` and ``test/*`` of the best checkpoint, or of the last where nothing chose a best one.

    Raises:
        UserError: that checkpoint is one that a run which goes on has found, and holds what does not belong there.
    """
    run_folder = place.folder
    best = "val" in data.parts and run_folder.best.is_file()
    path = run_folder.best if best else run_folder.last if run_folder.last.is_file() else None
    results: dict[str, Any] = {"checkpoint": path.stem if path else "none"}  # none: no epoch was trained
    with read_from(path) if place.resuming else contextlib.nullcontext():
        if "val" in data.parts:
            results |= dict(*trainer.validate(module, data, ckpt_path=path, verbose=False, weights_only=True))
        if "test" in data.parts:
            results |= dict(*trainer.test(module, data, ckpt_path=path, verbose=False, weights_only=True))
    return results

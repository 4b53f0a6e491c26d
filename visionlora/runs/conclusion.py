"""What a finished run amounts to, as a paragraph: better than before or not, whether the data suffice to tell, what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.runs.log import Curves
from visionlora.tasks.conclusion import compared as compared_plainly
from visionlora.tasks.task import Task

FEW_STEPS = 100
"""Optimizer steps below which a training is likely to have been cut short: the learning rate has hardly risen and fallen."""
FALLING, RISEN = 0.97, 1.05
"""Validation loss of the last epoch, by that of the one before, and by the lowest: more epochs may help, fewer may."""


def conclusion(task: Task, results: Mapping[str, Any], curves: Curves, folder: Path) -> str:
    """The paragraph that a training ends with.

    Args:
        task: of the run.
        results: of ``results.json``.
        curves: what ``read_curves`` read.
        folder: of the run.
    """
    better, compared = task.compared(results) or compared_plainly(type(task), results)
    more_epochs, course = _course(results, curves)
    run = shlex.quote(str(folder))
    if more_epochs:
        following = f"python -m visionlora.train again={run} trainer.max_epochs={more_epochs}"
    elif not better and results.get("method") != "none":
        following = f"python -m visionlora.train again={run} lora=none   (the head alone, to compare with; or a lower optim.lr)"
    else:
        following = f"python -m visionlora.evaluate run={run}   (where it is right and where it fails, image by image)"
    sentences = [compared, task.doubts(results), course, f"Next: {following}"]
    return " ".join(filter(None, sentences))


def _course(results: Mapping[str, Any], curves: Curves) -> tuple[int, str]:
    """The epochs that are likely to be better, 0 where these will do, and why."""
    steps, epochs = int(results.get("steps", 0)), int(results.get("epochs", 0))
    if not steps or not epochs:
        return 0, "Nothing was trained."
    if results.get("strength/update") == results.get("strength/head") == 0:
        return 0, ""  # the probe is kept, and more training would be no better founded
    if steps < FEW_STEPS and not results.get("recipe"):  # a recipe knows how many do for so few images
        taken = "one optimizer step was" if steps == 1 else f"{steps} optimizer steps were"
        return math.ceil(epochs * FEW_STEPS / steps), f"Only {taken} taken: more are likely to help."
    losses = curves.get("val/loss", ([], []))[1]
    if len(losses) < 2:
        return 0, ""
    if losses[-1] < FALLING * min(losses[:-1]):
        falling = f"from {losses[-2]:.3f} to {losses[-1]:.3f}"
        return 2 * epochs, f"The validation loss still fell in the last epoch, {falling}: more epochs are likely to help."
    if losses[-1] > RISEN * min(losses):
        lowest = losses.index(min(losses)) + 1
        return 0, (
            f"The validation loss was lowest in epoch {lowest} of {len(losses)} and has risen since, from {min(losses):.3f} to"
            f" {losses[-1]:.3f}: fewer epochs, lora.dropout or a lower rank may help."
        )
    return 0, ""

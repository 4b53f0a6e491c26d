"""What a finished run amounts to, as a paragraph: better than before or not, whether the data suffice to tell, what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy import stats

from visionlora.common.text import counted
from visionlora.runs.log import Curves

FEW_STEPS = 100
"""Optimizer steps below which a training is likely to have been cut short: the learning rate has hardly risen and fallen."""
FEW_IMAGES = 100
"""Validation images below which an accuracy is known to no better than about 5 points."""
FALLING, RISEN = 0.97, 1.05
"""Validation loss of the last epoch, by that of the one before, and by the lowest: more epochs may help, fewer may."""


def conclusion(results: Mapping[str, Any], curves: Curves, folder: Path) -> str:
    """The paragraph that a training ends with.

    Args:
        results: of ``results.json``.
        curves: what ``read_curves`` read.
        folder: of the run.
    """
    better, compared = _compared(results)
    more_epochs, course = _course(results, curves)
    run = shlex.quote(str(folder))
    if more_epochs:
        following = f"python -m visionlora.train again={run} trainer.max_epochs={more_epochs}"
    elif not better and results.get("method") != "none":
        following = f"python -m visionlora.train again={run} lora=none   (a linear probe to compare with; or a lower optim.lr)"
    else:
        following = f"python -m visionlora.evaluate run={run}   (classes, confusions and a page of the mistakes)"
    sentences = [compared, _validation(results), course, f"Next: {following}"]
    return " ".join(filter(None, sentences))


def interval(right: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy (Wilson 1927; ``scipy.stats``)."""
    found = stats.binomtest(round(right * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def gained(before: float, after: float, images: int) -> tuple[float, float]:
    """Newcombe's 95 % interval of the difference of two accuracies (Newcombe 1998, Statistics in Medicine 17, method 10).

    It takes the two for measured on images of their own. Here they are the same images, so the true interval is narrower.
    """
    (low_before, high_before), (low_after, high_after) = interval(before, images), interval(after, images)
    difference = after - before
    down, up = math.hypot(after - low_after, high_before - before), math.hypot(high_after - after, before - low_before)
    return difference - down, difference + up


def _compared(results: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the test accuracy is beyond doubt better than before, and that in words."""
    images, before, after = int(results.get("images/test", 0)), results.get("test_before/top1"), results.get("test/top1")
    if not images or after is None:
        if results.get("val/top1") is None:
            return True, "There is neither a test nor a validation part, so nothing says how good the model is."
        return True, f"There is no test part: the {results['val/top1']:.1%} of the validation part has chosen the epoch, and flatters."
    on = f"on {counted(images, 'test image')}"
    if before is None:
        low, high = interval(after, images)
        return True, f"Top-1 accuracy is {after:.1%} {on} (95% interval {low:.1%} to {high:.1%})."
    low, high = gained(before, after, images)
    course = f"Top-1 accuracy went from {before:.1%} (nearest class mean on the untouched backbone) to {after:.1%} {on}"
    points = f"{100 * abs(after - before):.1f} points"
    bounds = f"95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low > 0:
        return True, f"{course}: {points} better, beyond chance ({bounds})."
    if high < 0:
        return False, f"{course}: {points} worse, beyond chance ({bounds})."
    direction = "better" if after > before else "worse" if after < before else "apart"
    return False, f"{course}: {points} {direction}, which may be chance on so few ({bounds})."


def _validation(results: Mapping[str, Any]) -> str:
    images, found = int(results.get("images/val", 0)), results.get("val/top1")
    if found is None or not 0 < images < FEW_IMAGES:
        return ""
    low, high = interval(found, images)
    return (
        f"The validation part has {counted(images, 'image')}, so its {found:.1%} may be anything from {low:.0%} to {high:.0%}: too few to"
        " choose an epoch or settings by. data.val_fraction takes more from the training part, and several seeds tell chance from effect."
    )


def _course(results: Mapping[str, Any], curves: Curves) -> tuple[int, str]:
    """The epochs that are likely to be better, 0 where these will do, and why."""
    steps, epochs = int(results.get("steps", 0)), int(results.get("epochs", 0))
    if not steps or not epochs:
        return 0, "Nothing was trained."
    if steps < FEW_STEPS:
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

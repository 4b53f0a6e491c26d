"""What the results of a classifier amount to: better than before or not, and whether the data suffice to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visionlora.common.text import counted
from visionlora.tasks.conclusion import without_test

if TYPE_CHECKING:
    from visionlora.tasks.task import Task

FEW_IMAGES = 100
"""Validation images below which an accuracy is known to no better than about 5 points."""


def interval(right: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy (Wilson 1927; ``scipy.stats``)."""
    from scipy import stats  # slow to import, and every command looks at the tasks

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


def compared(task: Task, results: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the test accuracy is beyond doubt better than before, and that in words."""
    images, before, after = int(results.get("images/test", 0)), results.get("test_before/top1"), results.get("test/top1")
    if not images or after is None:
        return True, without_test(type(task), results)
    on = f"on {counted(images, 'test image')}"
    if before is None:
        low, high = interval(after, images)
        return True, f"Top-1 accuracy is {after:.1%} {on} (95% interval {low:.1%} to {high:.1%})."
    low, high = gained(before, after, images)
    course = f"Top-1 accuracy went from {before:.1%} ({task.baseline_words}) to {after:.1%} {on}"
    points = f"{100 * abs(after - before):.1f} points"
    bounds = f"95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low > 0:
        return True, f"{course}: {points} better, beyond chance ({bounds})."
    if high < 0:
        return False, f"{course}: {points} worse, beyond chance ({bounds})."
    direction = "better" if after > before else "worse" if after < before else "apart"
    return False, f"{course}: {points} {direction}, which may be chance on so few ({bounds})."


def doubts(results: Mapping[str, Any]) -> str:
    """What the validation part is too small for; ``""`` where it is not."""
    images, found = int(results.get("images/val", 0)), results.get("val/top1")
    if found is None or not 0 < images < FEW_IMAGES:
        return ""
    low, high = interval(found, images)
    return (
        f"The validation part has {counted(images, 'image')}, so its {found:.1%} may be anything from {low:.0%} to {high:.0%}: too few to"
        " choose an epoch or settings by. data.val_fraction takes more from the training part, and several seeds tell chance from effect."
    )

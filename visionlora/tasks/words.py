"""How what is measured is called and written, by its key in logs and results. Free of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from visionlora.common.errors import UserError
from visionlora.common.labels import SETTINGS
from visionlora.tasks.measure import Measure
from visionlora.tasks.registry import TASKS

if TYPE_CHECKING:
    from visionlora.tasks.task import Task


PARTS = {"train": "training", "val": "validation", "test": "test", "test_before": "test, before,"}
"""Parts of the data, as they begin the names of what is measured on them, in words."""
COMMON = (
    Measure("loss", "loss", share=False, higher=False),
    Measure("loss_step", "loss", share=False, higher=False),
    Measure("unreadable", "images that cannot be read", share=False, higher=False, spread=False),
)


def measure_of(key: str, task: type[Task] | None = None) -> Measure | None:
    """The measure that ``key``, such as ``test/top1`` or ``top1``, is of; ``None`` where it is none.

    Args:
        key: of ``results.json`` or a log.
        task: whose measures are looked through; by default those of the built-in tasks and, where ``key`` has a part of the data, of
            every task that an installed package brings.
    """
    part, slash, name = key.rpartition("/")
    if slash and part not in PARTS:
        return None
    return next((measure for measure in _measures(task, installed=bool(slash)) if measure.key == name), None)


def _measures(task: type[Task] | None, installed: bool) -> Iterator[Measure]:
    if task is not None:
        yield from task.every_measure()
    yield from COMMON
    if task is None:
        for name in TASKS if installed else TASKS.built_in:  # those of packages come last, and are imported only when they are reached
            with contextlib.suppress(UserError):  # a package that cannot be imported is told where its task is asked for
                yield from TASKS[name].measures


def label(key: str, task: type[Task] | None = None) -> str:
    """A key of a config or of results in words; one that has none as it is.

    >>> label("test/top1"), label("lora.r"), label("optim.name")
    ('test top-1 accuracy', 'rank', 'optim.name')
    """
    part, slash, _ = key.rpartition("/")
    measure = measure_of(key, task) if slash else None
    return f"{PARTS[part]} {measure.words}" if measure else SETTINGS.get(key, key)


def in_words(key: str, value: float, task: type[Task] | None = None) -> str:
    """A number as every command writes it: shares in percent, counts whole, all else with three decimals.

    >>> in_words("test/top1", 0.9613), in_words("loss", 0.31), in_words("images/test", 1200)
    ('96.1%', '0.310', '1,200')
    """
    if is_share(key, task):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def is_share(key: str, task: type[Task] | None = None) -> bool:
    """Whether it is written in percent."""
    measure = measure_of(key, task)
    return measure is not None and measure.share


def higher_is_better(key: str, task: type[Task] | None = None) -> bool:
    """Whether higher values are better: so it is with accuracies and speed, and not with losses, seconds, bytes and parameters."""
    measure = measure_of(key, task)
    return measure.higher if measure else key in ("images_per_second", "epochs")


def has_spread(key: str, task: type[Task] | None = None) -> bool:
    """Whether runs of several seeds are compared by it: by what is measured, and not by costs."""
    measure = measure_of(key, task)
    return measure is not None and measure.spread

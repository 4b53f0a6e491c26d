"""A number by which work is judged. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One number by which a task is judged.

    Args:
        key: its name in logs and results: ``top1`` is ``val/top1`` and ``test/top1``.
        words: as a paper calls it.
        short: the same for the head of a narrow column; ``""`` for ``words``.
        share: whether it is between 0 and 1 and written in percent.
        higher: whether more is better.
        spread: whether runs of several seeds are compared by it, with intervals.
        hub: what the Hugging Face hub calls it, ``""`` where it is not shown there.
    """

    key: str
    words: str
    short: str = ""
    share: bool = True
    higher: bool = True
    spread: bool = True
    hub: str = ""

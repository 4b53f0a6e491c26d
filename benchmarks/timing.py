"""How benchmarks take times: all sides in turn in one process, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call."""
    started = clock()
    function()
    return clock() - started


def in_turn(
    sides: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each side, one call of each a round, after some rounds of warm-up; ``clock=time.process_time`` counts those of the
    processor alone, which others on the machine do not lengthen much.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm_up):
        for name, function in sides.items():
            elapsed = seconds(function, clock)
            if number >= warm_up:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}

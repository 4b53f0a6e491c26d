"""How benchmarks take times: all sides in turn in one process, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each side, one call of each a round, after some rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm_up):
        for name, function in sides.items():
            elapsed = seconds(function)
            if number >= warm_up:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}

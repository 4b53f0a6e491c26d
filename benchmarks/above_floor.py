"""What stands between our step and the floor: milliseconds a step by operation, ours less the floor's.

    python benchmarks/above_floor.py

From torch's profiler (self time, so the lines add up; it slows a step by a few per cent); the rest up to the step's time by the clock
is Python and the optimizer's launches.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from benchmarks.step_time import CASES, Side
from benchmarks.timing import in_turn
from visionlora.common.files import replace_file

GROUPS = {
    "convolution": ("mkldnn_convolution", "thnn_conv", "slow_conv", "_convolution", "conv_depthwise"),
    "its gradients": ("convolution_backward",),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "mkldnn_linear"),
    "copies and casts": ("copy_", "cat", "clone", "contiguous", "fill_", "zero_", "constant_pad_nd"),
    "optimizer": ("_fused_adamw_", "_fused_adam_"),
}


def group_of(operation: str) -> str:
    """Of ``GROUPS``, by the operation's name."""
    name = operation.removeprefix("aten::").removeprefix("mkldnn::")
    for group, names in GROUPS.items():
        if any(name == known or (len(known) > 6 and known in name) for known in names):
            return group
    return "the rest"


def by_group(side: Side, steps: int) -> Counter[str]:
    """Milliseconds a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            side.step()
    found: Counter[str] = Counter()
    for event in profile.key_averages():
        if event.key.startswith(("aten::", "mkldnn::")):
            found[group_of(event.key)] += event.self_cpu_time_total / 1000 / steps
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/above_floor.json"))
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for name in options.models:
        sides = {which: Side(which, CASES[name], "bf16") for which in ("ours", "floor")}
        clock = in_turn({which: side.step for which, side in sides.items()}, options.steps)
        ours, floor = (by_group(side, options.steps) for side in sides.values())
        rows[name] = {group: round(ours[group] - floor[group], 1) for group in (*GROUPS, "the rest")}
        above = 1000 * (clock["ours"] - clock["floor"])
        rows[name]["Python"] = round(above - sum(rows[name].values()), 1)
        rows[name]["in all"] = round(above, 1)
        rows[name]["floor"] = round(1000 * clock["floor"], 1)
        print(name, rows[name], flush=True)
    replace_file(options.out, json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    main()

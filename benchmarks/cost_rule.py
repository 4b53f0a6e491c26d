"""The cost rule of ``lora/kernels.py`` against each fixed choice: a training step, all in turn in one process.

    python benchmarks/cost_rule.py

A fixed choice is one way forward (the update formed into the weight, or beside it) and one way back (by factors, or from the whole
gradient) for every layer that is not grouped; grouped convs have one way only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.step_time import CASES, Side
from benchmarks.timing import in_turn
from visionlora.common.files import replace_file
from visionlora.lora import kernels
from visionlora.lora.kernels import Layer, Plan

Rule = Callable[[Layer, int, int], Plan]
RULE: Rule = kernels.plan
FIXED = {
    "formed, by factors": Plan(formed=True, whole=False),
    "formed, whole": Plan(formed=True, whole=True),
    "beside, by factors": Plan(formed=False, whole=False),
    "beside, whole": Plan(formed=False, whole=True),
}


def always(choice: Plan) -> Rule:
    """A rule that takes ``choice`` wherever there is one."""
    return lambda layer, rank, positions: RULE(layer, rank, positions) if layer.conv is not None and layer.conv.groups > 1 else choice


def step_by(side: Side, rule: Rule) -> None:
    """A step with this rule in the place of the kernels' own."""
    kernels.plan = rule  # type: ignore[assignment]
    side.step()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost_rule.json"))
    options = parser.parse_args()
    rules = {"rule": RULE} | {name: always(choice) for name, choice in FIXED.items()}
    found: dict[str, dict[str, float]] = {}
    for name in options.models:
        side = Side("ours", CASES[name], "bf16")
        times = in_turn({label: partial(step_by, side, rule) for label, rule in rules.items()}, options.rounds)
        found[name] = {label: round(1000 * seconds, 1) for label, seconds in times.items()}
        print(name, found[name], flush=True)
    replace_file(options.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()

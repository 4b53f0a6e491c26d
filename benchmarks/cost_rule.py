"""The cost rule of ``lora/kernels/cost.py`` against each fixed choice: a training step, all in turn in one process.

    python benchmarks/cost_rule.py              # docs/speed.md has these
    python benchmarks/cost_rule.py --numbers    # each number of the rule, and of the convs by shifted copies, halved and doubled

A fixed choice is one way forward (the update formed into the weight, or beside it) and one way back (by factors, or from the whole
gradient) for every layer that is not grouped; grouped convs have one way only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from benchmarks.step_time import CASES, Side
from benchmarks.timing import in_turn
from visionlora.common.files import replace_file
from visionlora.lora.kernels import conv, cost
from visionlora.lora.kernels.cost import Plan
from visionlora.lora.kernels.geometry import Layer
from visionlora.lora.kernels.ways import BESIDE, BY_FACTORS, FORMED, WHOLE

Rule = Callable[[Layer, int, int], Plan]
Setting = Callable[[], AbstractContextManager[Any]]
RULE: Rule = cost.plan
FIXED = {
    "formed, by factors": Plan(FORMED, BY_FACTORS),
    "formed, whole": Plan(FORMED, WHOLE),
    "beside, by factors": Plan(BESIDE, BY_FACTORS),
    "beside, whole": Plan(BESIDE, WHOLE),
}
NUMBERS: tuple[tuple[ModuleType, str], ...] = (
    (cost, "FORMING_BYTES"),
    (cost, "NARROW"),
    (cost, "NARROW_PER_RANK"),
    (conv, "WIDEST_COPIES"),
)
"""``BESIDE_BYTES`` is left out: only its ratio to ``FORMING_BYTES`` matters."""


def always(choice: Plan) -> Rule:
    """A rule that takes ``choice`` wherever there is one."""
    return lambda layer, rank, positions: RULE(layer, rank, positions) if layer.geometry.one_way else choice


def by_choice() -> dict[str, Setting]:
    """The rule, and each fixed choice in its place."""
    fixed: dict[str, Setting] = {label: partial(mock.patch.object, cost, "plan", always(choice)) for label, choice in FIXED.items()}
    return {"rule": nullcontext} | fixed


def by_number() -> dict[str, Setting]:
    """The rule, and the rule with one of its numbers halved or doubled."""
    found: dict[str, Setting] = {"rule": nullcontext}
    for module, number in NUMBERS:
        for factor in (0.5, 2):
            found[f"{number} × {factor:g}"] = partial(mock.patch.object, module, number, factor * getattr(module, number))
    return found


def step_in(side: Side, setting: Setting) -> None:
    """A step inside ``setting()``."""
    with setting():
        side.step()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--numbers", action="store_true", help="vary the numbers instead of the choices")
    parser.add_argument("--out", type=Path, help="by default cost_rule.json, or cost_numbers.json, in benchmarks/results")
    options = parser.parse_args()
    settings = by_number() if options.numbers else by_choice()
    out = options.out or Path("benchmarks/results", "cost_numbers.json" if options.numbers else "cost_rule.json")
    found: dict[str, dict[str, float]] = {}
    for name in options.models:
        side = Side("ours", CASES[name], "bf16")
        times = in_turn({label: partial(step_in, side, setting) for label, setting in settings.items()}, options.rounds)
        found[name] = {label: round(1000 * seconds, 1) for label, seconds in times.items()}
        print(name, found[name], flush=True)
    replace_file(out, json.dumps(found, indent=1, ensure_ascii=False).encode())


if __name__ == "__main__":
    main()

"""How the time and memory of a step grow with rank, batch, resolution and depth: ours and PEFT at its best.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

ResNet-18 at bf16, 128 px, batch 32, rank 8, but for what is varied; for depth, ResNets of 18 to 101 layers at batch 8. Both sides in turn
in one process, medians.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from benchmarks.step_time import Case, Side
from benchmarks.timing import in_turn

SIDES = ("ours", "peft_best")
SWEEPS: dict[str, list[tuple[Any, Case, int]]] = {
    "rank": [(r, Case("timm/resnet18", 128, 32), r) for r in (1, 4, 16, 64)],
    "batch": [(n, Case("timm/resnet18", 128, n), 8) for n in (4, 16, 64)],
    "resolution": [(s, Case("timm/resnet18", s, 16), 8) for s in (64, 128, 224)],
    "depth": [(d, Case(f"timm/resnet{d}", 128, 8), 8) for d in (18, 50, 101)],
}


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for what, points in SWEEPS.items():
        for value, case, rank in points:
            sides = {name: Side(name, case, "bf16", rank) for name in SIDES}
            times = in_turn({name: side.step for name, side in sides.items()}, options.rounds)
            for name, side in sides.items():
                row = {"varied": what, "value": value, "side": name, "ms": round(1000 * times[name], 1)}
                rows.append(row | {"saved_mib": round(side.saved_mib(), 1), "trainable": side.trainable})
                print(json.dumps(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()

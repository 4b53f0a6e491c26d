"""25 images a class of CIFAR-10: is LoRA worth it against a probe? Five draws, all 2,000 test images.

    python benchmarks/small_sets.py --root DIR --out benchmarks/results/small_sets.json

Every cell is one run of ``visionlora.train`` with the overrides below, in this process; seed and draw (``data.split_seed``) vary together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

from benchmarks.runs import figures

COMMON = (
    "recipe=plain",
    "experiment=cifar10_lite0",
    "data.per_class=25",
)
ROWS: dict[str, tuple[str, ...]] = {
    "probe (logistic regression)": ("lora=none", "model.head_init=probe", "optim.lr=1e-9", "trainer.max_epochs=1"),
    "LoRA as for large sets": ("data.batch_size=16", "trainer.max_epochs=12"),
    "LoRA, the recipe": (
        "model.head_init=probe",
        "optim.lr=3e-3",
        "data.batch_size=16",
        "trainer.max_epochs=12",
    ),
}
T_95 = 2.776
"""Student's t for a 95 % interval of the mean of five."""


def top1(root: str, overrides: tuple[str, ...], seed: int) -> float:
    """Test accuracy of one run."""
    seeds = (f"data.root={root}", f"seed={seed}", f"data.split_seed={seed}")
    return float(figures(*COMMON, *seeds, *overrides)["test/top1"])


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="class folders of CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/small_sets.json"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    known: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.rows:
            cell = f"{name} seed={seed}"
            if cell not in known:
                known[cell] = top1(options.root, ROWS[name], seed)
                options.out.write_text(json.dumps(known, indent=1))
            print(cell, f"{known[cell]:.1%}", flush=True)
    print("| | top-1, % | overrides |\n|---|---:|---|")
    for name in options.rows:
        scores = [100 * known[f"{name} seed={seed}"] for seed in options.seeds]
        half = T_95 * statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        print(f"| {name} | {statistics.mean(scores):.1f} ± {half:.1f} | `{' '.join(ROWS[name])}` |")


if __name__ == "__main__":
    main()

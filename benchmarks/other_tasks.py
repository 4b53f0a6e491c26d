"""Several labels an image, and numbers: a probe, LoRA and full fine-tuning beside each other on a table of images.

    python benchmarks/other_tasks.py --task multilabel --root labels.csv --name camvid
    python benchmarks/other_tasks.py --task regression --root counts.csv --label red_cells --name bccd

Every cell is one run of ``visionlora.train data=table`` in this process; what is known is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.runs import figures

ROWS: dict[str, tuple[str, ...]] = {
    "probe": ("recipe=plain", "lora=none", "model.head_init=probe", "optim.lr=1e-9", "trainer.max_epochs=1"),
    "LoRA, the default": (),
    "full fine-tuning": ("lora=full",),
}
MEASURES = {"multilabel": ("map", "f1", "f1_micro"), "regression": ("mae", "rmse", "r2")}
RESULTS = Path(__file__).parent / "results" / "other_tasks.json"
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of the mean of so many."""


def measured(options: argparse.Namespace, row: str, seed: int) -> dict[str, float]:
    """What one run gives on the test part, and its seconds."""
    label = (f"data.label={options.label}",) if options.label else ()
    started = time.perf_counter()
    found = figures(
        f"task={options.task}", "data=table", f"data.root={options.root}", f"data.image_size={options.size}", "data.num_workers=0",
        f"seed={seed}", *label, *ROWS[row],
    )  # fmt: skip
    kept = {measure: float(found[f"test/{measure}"]) for measure in MEASURES[options.task]}
    return kept | {"seconds": time.perf_counter() - started, "images": float(found["images/test"])}


def main() -> None:
    """Measure what is not known, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(MEASURES), required=True)
    parser.add_argument("--name", required=True, help="of the images, in the file of results")
    parser.add_argument("--root", help="the table; without it the known cells are shown")
    parser.add_argument("--label", help="its column")
    parser.add_argument("--size", type=int, default=160, help="side of the images")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    cells = known.setdefault(f"{options.name} {options.size} px", {})
    for seed in options.seeds if options.root else ():
        for row in options.rows:
            key = f"{row} seed={seed}"
            if key not in cells:
                cells[key] = measured(options, row, seed)
                RESULTS.write_text(json.dumps(known, indent=1) + "\n")
            print(key, cells[key], flush=True)
    print(f"| | {' | '.join(MEASURES[options.task])} | seconds |\n|---|{'---:|' * (len(MEASURES[options.task]) + 1)}")
    for row in options.rows:
        found = [cells[f"{row} seed={seed}"] for seed in options.seeds if f"{row} seed={seed}" in cells]
        if found:
            shown = [_shown([cell[measure] for cell in found]) for measure in MEASURES[options.task]]
            print(f"| {row} | {' | '.join(shown)} | {statistics.mean(cell['seconds'] for cell in found):.0f} |")


def _shown(values: list[float]) -> str:
    spread = f" ± {T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) in T_95 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()

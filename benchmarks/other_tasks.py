"""Several labels an image, numbers, boxes and masks: a frozen backbone, LoRA and full fine-tuning beside each other.

    python benchmarks/other_tasks.py --task multilabel --root labels.csv --name camvid --size 160
    python benchmarks/other_tasks.py --task regression --root counts.csv --label red_cells --name bccd --size 160
    python benchmarks/other_tasks.py --task detect --data voc --root DIR --name bccd-boxes
    python benchmarks/other_tasks.py --task segment --data masks --root DIR --name camvid-masks

Every cell is one run of ``visionlora.train`` in this process; what is known is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.runs import figures, keep, of_data

ROWS: dict[str, tuple[str, ...]] = {
    "probe": ("recipe=plain", "lora=none", "model.head_init=probe", "optim.lr=1e-9", "trainer.max_epochs=1"),
    "frozen backbone": ("lora=none",),
    "LoRA, the default": (),
    "full fine-tuning": ("lora=full",),
    "from random weights": ("lora=full", "model.pretrained=false"),
}
MEASURES = {
    "multilabel": ("map", "f1", "f1_micro"),
    "regression": ("mae", "rmse", "r2"),
    "detect": ("map", "map50"),
    "segment": ("miou", "pixel_accuracy"),
}
OF_TABLES = ("probe", "LoRA, the default", "full fine-tuning")
OF_DENSE = ("frozen backbone", "LoRA, the default", "full fine-tuning")
RESULTS = Path(__file__).parent / "results" / "other_tasks.json"
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of the mean of so many."""


def measured(options: argparse.Namespace, row: str, seed: int) -> dict[str, float]:
    """What one run gives on the test part, and its seconds."""
    words = of_data(root=options.root, num_workers=0, label=options.label, image_size=options.size)
    started = time.perf_counter()
    found = figures(f"task={options.task}", f"data={options.data}", f"seed={seed}", *words, *options.overrides, *ROWS[row])
    kept = {measure: float(found[f"test/{measure}"]) for measure in MEASURES[options.task]}
    return kept | {"seconds": time.perf_counter() - started, "images": float(found["images/test"])}


def main() -> None:
    """Measure what is not known, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(MEASURES), required=True)
    parser.add_argument("--name", required=True, help="of the images, in the file of results")
    parser.add_argument("--data", default="table", help="the source: table, voc, coco, yolo or masks")
    parser.add_argument("--root", help="the table or folder; without it the known cells are shown")
    parser.add_argument("--label", help="the table's column")
    parser.add_argument("--size", type=int, help="side of the images; without it what the command takes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS))
    parser.add_argument("--overrides", nargs="*", default=[], help="of the command, for every row; give such cells a --name of their own")
    options = parser.parse_args()
    options.rows = options.rows or (OF_DENSE if options.task in ("detect", "segment") else OF_TABLES)
    warnings.filterwarnings("ignore")
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    images = f"{options.name} {options.size} px" if options.size else options.name
    cells = known.get(images, {})
    for seed in options.seeds if options.root else ():
        for row in options.rows:
            key = f"{row} seed={seed}"
            if key not in cells:
                cells[key] = measured(options, row, seed)
                keep(RESULTS, cells[key], images, key)
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

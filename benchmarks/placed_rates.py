"""Learning rates with boxes or masks, chosen on the validation part: frozen backbone, LoRA and full fine-tuning.

    python benchmarks/placed_rates.py --task detect --data voc --root DIR --name bccd --size 224 --row lora --rates 0.001/0.003 0.003/0.003
    python benchmarks/placed_rates.py --task segment --data masks --root DIR --name camvid --size 224 --row frozen --rates 0.003 0.009

A rate is ``optim.lr``, of the adapters or the backbone's weights, and behind the bar ``optim.head_lr``, of what is new over the
backbone; a frozen backbone has the latter alone. Each cell is one run of ``visionlora.train`` in this process; what is known is not
measured again. The table shows what the name has in the file of results, the best of the validation part first; without ``--rates``
that is all it does.
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

ROWS = {"frozen": "lora=none", "lora": "lora=default", "full": "lora=full"}
MEASURES = {"detect": ("map", "map50"), "segment": ("miou", "pixel_accuracy")}
"""By task; the first chooses."""
RESULTS = Path(__file__).parent / "results" / "placed_rates.json"


def measured(options: argparse.Namespace, rate: str, seed: int) -> dict[str, float]:
    """What one run gives on the validation and the test part, in %, and its seconds."""
    words = of_data(root=options.root, num_workers=0, image_size=options.size)
    below, _, above = rate.partition("/")
    rates = [f"optim.lr={below}", *([f"optim.head_lr={above}"] if above else [])]
    started = time.perf_counter()
    found = figures(f"task={options.task}", f"data={options.data}", ROWS[options.row], f"seed={seed}", *words, *rates, *options.overrides)
    kept = {key: round(100 * float(found[key]), 2) for part in ("val", "test") for key in _keys(options.task, part)}
    return kept | {"seconds": round(time.perf_counter() - started)}


def _keys(task: str, part: str) -> list[str]:
    return [f"{part}/{measure}" for measure in MEASURES[task]]


def main() -> None:
    """Measure what is not known, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(MEASURES), required=True)
    parser.add_argument("--name", required=True, help="of the images, in the file of results")
    parser.add_argument("--data", default="voc", help="the source: voc, coco, yolo or masks")
    parser.add_argument("--root", help="the folder of the images")
    parser.add_argument("--size", type=int, help="side of the images; without it what the command takes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--row", choices=list(ROWS), default="lora")
    parser.add_argument("--rates", nargs="+", default=[], metavar="LR[/HEAD_LR]")
    parser.add_argument("--overrides", nargs="*", default=[], help="of the command; give such cells a --name of their own")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    images = f"{options.name} {options.size} px" if options.size else options.name
    for rate in options.rates:
        for seed in options.seeds:
            if f"seed={seed}" not in _known(images).get(options.row, {}).get(rate, {}):
                keep(RESULTS, measured(options, rate, seed), images, options.row, rate, f"seed={seed}")
    keys = [key for part in ("val", "test") for key in _keys(options.task, part)]
    print(f"| {images} | optim.lr / optim.head_lr | seeds | {' | '.join(keys)} | seconds |\n|---|---|---:|{'---:|' * (len(keys) + 1)}")
    for row, rates in _known(images).items():
        means = {
            rate: {key: statistics.mean(cell[key] for cell in cells.values()) for key in (*keys, "seconds")}
            for rate, cells in rates.items()
        }
        for rate, mean in sorted(means.items(), key=lambda pair: -pair[1][keys[0]]):
            print(f"| {row} | {rate} | {len(rates[rate])} | {' | '.join(f'{mean[key]:.1f}' for key in keys)} | {mean['seconds']:.0f} |")


def _known(images: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found: dict[str, Any] = known.get(images, {})
    return found


if __name__ == "__main__":
    main()

"""Accuracy on CIFAR-10 images: the tables of docs/accuracy.md and docs/methods.md.

    python benchmarks/accuracy.py --root DIR                    LoRA against PEFT, full fine-tuning and the head alone
    python benchmarks/accuracy.py --root DIR --table methods    methods and rank allocations against each other

DIR has class folders ``train/CLASS/*`` and ``test/CLASS/*``. Each table is one experiment, with the same data order, augmentation,
schedule and precision for all its rows. Each row's learning rate is chosen among three by runs of a third of an epoch on nine
tenths of the training images (seed 0): the lowest within a standard error of the best on the tenth held out, never on the test images.
Then all training images are used, with each seed. Cells that are in the results file already are not run again. Everything runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.common.files import replace_file

HELD_OUT = 1000
"""Images the learning rates are chosen on."""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of the mean of so many seeds."""


@dataclass(frozen=True)
class Row:
    """One row: a command, and the learning rates it is tried with."""

    label: str
    overrides: tuple[str, ...]
    rates: tuple[float, ...]
    peft: bool = False


@dataclass(frozen=True)
class Table:
    """An experiment: what all rows share, and the rows."""

    common: tuple[str, ...]
    rows: dict[str, Row]
    parameters: str = "params/trainable"


ROWS = {
    "probe": Row("the head alone", ("lora=none",), (3e-3, 1e-2, 3e-2)),
    "lora_all": Row("LoRA r=8, every layer (visionlora)", (), (2e-3,)),  # at the rate of the next row
    "lora": Row("LoRA r=8, depthwise convs excluded (visionlora)", ("lora.targets=auto",), (1e-3, 2e-3, 4e-3)),
    "peft_train_bn": Row(
        "LoRA r=8 (PEFT, batch-norm as in its examples)", ("lora.targets=auto", "model.freeze_bn=false"), (1e-3, 2e-3, 4e-3), peft=True
    ),
    "peft_frozen_bn": Row("LoRA r=8 (PEFT, batch-norm frozen)", ("lora.targets=auto",), (1e-3, 2e-3, 4e-3), peft=True),
    "full_moving_bn": Row("full fine-tuning (batch-norm moving)", ("lora=full", "model.freeze_bn=false"), (3e-4, 1e-3, 3e-3)),
    "full_frozen_bn": Row("full fine-tuning (batch-norm frozen)", ("lora=full",), (1e-4, 3e-4, 1e-3)),
}
_RATES = (1e-3, 2e-3, 4e-3)
_LOW_RATES = (1e-4, 3e-4, 1e-3)  # factors that start large diverge at the others'
_BUDGET = "lora.budget=128364"  # what rank 4 in every layer costs
METHODS = {
    "lora": Row("LoRA", (), _RATES),
    "rslora": Row("rsLoRA", ("lora=rslora",), _RATES),
    "dora": Row("DoRA", ("lora=dora",), _RATES),
    "pissa": Row("PiSSA", ("lora=pissa",), _LOW_RATES),
    "milora": Row("MiLoRA", ("lora=milora",), (3e-4, 1e-3, 3e-3)),
    "olora": Row("OLoRA", ("lora=olora",), (3e-4, 1e-3, 3e-3)),
    "orthogonal": Row("orthogonal init", ("lora=orthogonal",), _RATES),
    "loraplus": Row("LoRA+, ratio 16", ("lora=loraplus",), (6e-5, 2.5e-4, 5e-4, 1e-3)),
    "lorafa": Row("LoRA-FA", ("lora=lorafa",), (2e-3, 4e-3, 8e-3)),
    "adaptive": Row("AdaLoRA", ("lora=adaptive",), (2e-3, 4e-3, 8e-3)),
    "delta_decay": Row("LoRA, delta_decay 1e-4", ("lora.delta_decay=1e-4",), _RATES),
    "structure": Row("ranks by structure", (_BUDGET, "lora.allocate=structure"), (2e-3,)),  # the rate of the first row
    "importance": Row("ranks by importance", (_BUDGET, "lora.allocate=importance"), (2e-3,)),  # the rate of the first row
    "shift": Row("ranks by shift", (_BUDGET, "lora.allocate=shift"), (2e-3,)),  # the rate of the first row
}
_SHORT = ("experiment=cifar10_lite0", "data.image_size=64", "trainer.max_epochs=1", "lora.r=4", "lora.targets=all")
TABLES = {
    "cifar10": Table(("experiment=cifar10_lite0",), ROWS),
    "methods": Table(_SHORT, METHODS, "params/adapter"),
}


def command(common: tuple[str, ...], row: Row, rate: float, seed: int, root: str, tuning: bool) -> list[str]:
    """The command of one cell, as docs/accuracy.md shows it."""
    overrides = [*common, f"data.root={root}", *row.overrides, f"optim.lr={rate:g}", f"seed={seed}"]
    if tuning:
        overrides += ["data.val_fraction=0.1", "trainer.max_epochs=1", "trainer.limit_train_batches=0.34", "trainer.limit_test_batches=1"]
    program = ["benchmarks/peft_run.py"] if row.peft else ["-m", "visionlora.train"]
    return [sys.executable, *program, *overrides]


def measure(common: tuple[str, ...], row: Row, rate: float, seed: int, root: str, tuning: bool) -> dict[str, Any]:
    """Run one cell and return its ``results.json``."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["callbacks=none", "trainer.enable_progress_bar=false", f"hydra.run.dir={folder}/run"]
        call = command(common, row, rate, seed, root, tuning) + quiet
        done = subprocess.run(
            call, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        )
        results = Path(folder, "run", "results.json")
        if done.returncode or not results.is_file():
            raise SystemExit(f"{' '.join(call)} failed:\n{done.stderr[-2000:]}")
        return json.loads(results.read_text())  # type: ignore[no-any-return]


class Results:
    """Cells measured so far, in a JSON file."""

    def __init__(self, table: Table, path: Path) -> None:
        self.table = table
        self.path, self.lock = path, threading.Lock()
        self.cells: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, name: str, rate: float, seed: int, root: str, tuning: bool) -> dict[str, Any]:
        """The cell, measured now if it is not there."""
        key = f"{name} lr={rate:g} seed={seed}{' tuning' if tuning else ''}"
        if key not in self.cells:
            figures = measure(self.table.common, self.table.rows[name], rate, seed, root, tuning)
            kept = ("val/top1", "test/top1", "test/f1", "test/loss", "params/trainable", "params/adapter", "seconds/fit", "memory/peak_mib")
            with self.lock:
                self.cells[key] = {k: figures[k] for k in kept if k in figures}
                replace_file(self.path, json.dumps(dict(sorted(self.cells.items())), indent=1).encode())
            print(key, self.cells[key], flush=True)
        return self.cells[key]


def tune(results: Results, name: str, root: str) -> float:
    """The lowest learning rate within a standard error of the best accuracy on held-out images (short runs favour high rates)."""
    rates = results.table.rows[name].rates
    if len(rates) == 1:
        return rates[0]
    scores = {rate: float(results.get(name, rate, 0, root, tuning=True)["val/top1"]) for rate in rates}
    best = max(scores.values())
    error = (best * (1 - best) / HELD_OUT) ** 0.5
    return min(rate for rate, score in scores.items() if score >= best - error)


def finish(results: Results, name: str, seeds: list[int], root: str) -> str:
    """One line of the table."""
    rate = tune(results, name, root)
    cells = [results.get(name, rate, seed, root, tuning=False) for seed in seeds]
    scores = [100 * float(cell["test/top1"]) for cell in cells]
    half = T_95.get(len(scores), 1.96) * statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
    trained = f"{cells[0][results.table.parameters]:,}"
    row = results.table.rows[name]
    short = " ".join(command(results.table.common, row, rate, 0, "DIR", tuning=False)[1:]).replace(" seed=0", " seed=0,1,2 -m")
    return f"| {row.label} | {trained} | {rate:g} | {statistics.mean(scores):.1f} ± {half:.1f} | `python {short}` |"


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="class folders of CIFAR-10")
    parser.add_argument("--table", choices=TABLES, default="cifar10")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/accuracy_TABLE.json")
    parser.add_argument("--rows", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; give OMP_NUM_THREADS with it")
    options = parser.parse_args()
    table = TABLES[options.table]
    rows = options.rows or list(table.rows)
    if unknown := sorted(set(rows) - set(table.rows)):
        parser.error(f"no row {unknown[0]} in the table {options.table}; it has {', '.join(table.rows)}")
    results = Results(table, options.out or Path(f"benchmarks/results/accuracy_{options.table}.json"))
    with ThreadPoolExecutor(options.jobs) as pool:
        lines = list(pool.map(lambda name: finish(results, name, options.seeds, options.root), rows))
    what = "trained" if table.parameters == "params/trainable" else "adapter"
    print(f"| | {what} parameters | learning rate | top-1, % | command |\n|---|---:|---:|---:|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""Where the seconds go from pressing return to the first step of ``make train``'s job.

    python benchmarks/startup.py --out benchmarks/results/startup.json

Each line is the median of a few fresh processes: Python alone, a mistyped key (told before torch is imported), the imports by what they
add, the whole command up to its first training step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = {
    "python": "pass",
    "and torch": "import torch",
    "and timm, torchvision": "import torch, timm, torchvision",
    "and lightning, torchmetrics": "import torch, timm, torchvision, lightning, torchmetrics",
    "and visionlora": "import visionlora.training.run",
}
FIRST_STEP = """
import os, sys, time
import lightning as L

def leave(self, *args, **kwargs):
    os._exit(0)

import visionlora.training.callbacks
visionlora.training.callbacks.Stopwatch.on_train_batch_end = leave
from visionlora.train import main
sys.argv = ["train", "callbacks=none", "trainer.enable_progress_bar=false", "hydra.run.dir=" + sys.argv[1]]
main()
"""


def seconds(call: list[str]) -> float:
    """Of one process."""
    started = time.perf_counter()
    subprocess.run(call, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/startup.json"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = {}
    for name, code in STAGES.items():
        rows[name] = statistics.median(seconds([sys.executable, "-c", code]) for _ in range(options.rounds))
    typo = [sys.executable, "-m", "visionlora.train", "lora.rank=3"]
    rows["a mistyped key"] = statistics.median(seconds(typo) for _ in range(options.rounds))
    times = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times.append(seconds([sys.executable, "-c", FIRST_STEP, f"{folder}/run"]))
    rows["the first step of the default run"] = statistics.median(times)
    rows = {name: round(value, 2) for name, value in rows.items()}
    for name, value in rows.items():
        print(f"{name:36s} {value:6.2f} s")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

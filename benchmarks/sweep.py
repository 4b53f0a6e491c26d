"""``docs/sweep.png``: accuracy against rank on CIFAR-10 images, with the head alone, norms and full fine-tuning.

    python benchmarks/sweep.py --runs SWEEP    keep the figures of the finished runs in SWEEP in benchmarks/results/sweep.json, and draw
    python benchmarks/sweep.py                 draw what is kept

docs/sweeps.md has the commands that fill SWEEP.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from visionlora.common.drawing import save_png
from visionlora.common.files import replace_file
from visionlora.reporting.plots import accuracy_by
from visionlora.reporting.runs import Run, configurations, find_runs

RESULTS = Path("benchmarks/results/sweep.json")
CONFIG = ("seed", "lora.method", "lora.train_norm", "lora.r", "optim.lr")
FIGURES = ("test/top1", "test/f1", "test/loss", "params/trainable", "seconds/fit", "memory/peak_mib")


def kept(run: Run) -> dict[str, object]:
    """What is kept of a run."""
    config = {key: run.config[key] for key in CONFIG if key in run.config}
    return {"config": config, "results": {key: run.results[key] for key in FIGURES if key in run.results}}


def main() -> None:
    """Keep, where runs are given, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", help="folder of the finished runs")
    folder = parser.parse_args().runs
    if folder is not None:
        replace_file(RESULTS, json.dumps([kept(run) for run in find_runs([folder])], indent=1).encode())
    runs = [Run(Path(f"run{number}"), row["config"], row["results"]) for number, row in enumerate(json.loads(RESULTS.read_text()))]
    save_png(accuracy_by(configurations(runs)), Path("docs/sweep.png"))


if __name__ == "__main__":
    main()

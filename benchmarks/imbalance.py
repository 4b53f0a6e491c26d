"""What ``data.balance`` is worth where classes differ in size: CIFAR-10 with a long tail, 200 images of the first class to 10 of the last.

    python benchmarks/imbalance.py --root DIR                # class folders DIR/train/CLASS/*, DIR/test/CLASS/*

Every cell is one run of ``visionlora.train data=imagefolder`` at 64 px on a draw of its own; draw and seed vary together, and which class
is large and which is small is drawn as well. All test images are tested, as many of each class, so that top-1 is balanced accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import warnings
from pathlib import Path

from benchmarks.runs import figures

LARGEST, SMALLEST = 200, 10
ROWS = ("none", "logit_adjustment", "sampler", "weights")
COMMON = ("data=imagefolder", "data.image_size=64", "data.num_workers=0", "data.val_fraction=0", "data.folds=0")
RESULTS = Path(__file__).parent / "results" / "imbalance.json"
T_95 = {3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of the mean of so many."""


def long_tail(root: Path, draw: int, folder: Path) -> None:
    """Class folders as links: the number of training images goes down by the same factor from class to class."""
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    order = random.Random(draw).sample(classes, len(classes))
    for place, name in enumerate(order):
        count = round(LARGEST * (SMALLEST / LARGEST) ** (place / (len(order) - 1)))
        files = sorted((root / "train" / name).iterdir())
        for part, kept in (
            ("train", random.Random(f"{draw} {name}").sample(files, count)),
            ("test", sorted((root / "test" / name).iterdir())),
        ):
            (folder / part / name).mkdir(parents=True)
            for file in kept:
                os.symlink(file.resolve(), folder / part / name / file.name)


def balanced(root: Path, row: str, draw: int) -> float:
    """Balanced test accuracy of one run."""
    with tempfile.TemporaryDirectory() as place:
        long_tail(root, draw, Path(place))
        return float(figures(*COMMON, f"data.root={place}", f"data.balance={row}", f"seed={draw}")["test/balanced"])


def shown(scores: list[float]) -> str:
    """Mean and, of three draws and more, its 95 % interval, in points."""
    half = f" ± {100 * T_95[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5:.1f}" if len(scores) in T_95 else ""
    return f"{100 * statistics.mean(scores):.1f}{half}"


def main() -> None:
    """Measure what is not known, then print the table: each row, and its difference to ``none`` draw by draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="class folders of CIFAR-10; without it the known cells are shown")
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    cells: dict[str, float] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for draw in options.draws if options.root else ():
        for row in options.rows:
            if f"{row} {draw}" not in cells:
                cells[f"{row} {draw}"] = balanced(options.root, row, draw)
                RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
            print(row, draw, f"{cells[f'{row} {draw}']:.1%}", flush=True)
    print("| data.balance | balanced accuracy, % | beyond none, points |\n|---|---:|---:|")
    for row in ROWS:
        both = [
            (cells[f"{row} {draw}"], cells[f"none {draw}"]) for draw in range(5) if f"{row} {draw}" in cells and f"none {draw}" in cells
        ]
        if both:
            print(f"| {row} | {shown([own for own, _ in both])} | {shown([own - none for own, none in both])} |")


if __name__ == "__main__":
    main()

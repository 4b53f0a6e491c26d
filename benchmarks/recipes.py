"""The cells that the table of ``recipe=auto`` rests on: small sets of CIFAR-10 and the digits, learning rates, epochs, batch sizes.

    python benchmarks/recipes.py --root DIR                      # class folders DIR/train/CLASS/*, DIR/test/CLASS/*: what is not known yet
    python benchmarks/recipes.py --root DIR --sets four15-0 --rows "probe 0.001 e12 b16"

A set ``ten25-1`` is ten classes, 25 training images of each, draw 1, at 64 px, EfficientNet-Lite0; ``digits-1`` is the digits with seed 1.
The accuracies of a small set are of 360 to 500 test images, so a difference below two points in one cell is noise: the table goes by
what several sets of a size say. Those of ten128 and more are of 2,000.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import warnings
from pathlib import Path

from benchmarks.runs import figures, keep

ALL = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SETS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "four15": (("bird", "deer", "horse", "ship"), 15, 100),
    "ten5": (ALL, 5, 50),
    "catdog60": (("cat", "dog"), 60, 200),
    "autotruck120": (("automobile", "truck"), 120, 200),
    "ten25": (ALL, 25, 50),
    "ten100": (ALL, 100, 50),
    "ten128": (ALL, 128, 200),
    "ten500": (ALL, 500, 200),
    "ten1000": (ALL, 1000, 200),
}
"""Classes, training images and test images of each."""
COMMON = ("data.num_workers=0",)
RESULTS = Path(__file__).parent / "results" / "recipes.json"
USUAL = ("plain", "probe 0.001 e12 b16", "probe 0.002 e12 b16", "probe 0.003 e12 b16")


def overrides(row: str) -> tuple[str, ...]:
    """A row as overrides: ``plain``, with a validation split; ``regression``, the probe; ``probe RATE eEPOCHS bBATCH``, ``random``
    likewise; or ``auto eEPOCHS bBATCH``, the rest as the recipe has it.
    """
    if row == "plain":
        return ("recipe=plain", "data.val_fraction=0.1")
    if row == "regression":
        return ("recipe=plain", "lora=none", "model.head_init=probe", "optim.lr=1e-9", "trainer.max_epochs=1")
    head, *rate, epochs, batch = row.split()
    start = ("recipe=plain", f"model.head_init={head}", f"optim.lr={rate[0]}") if rate else ("recipe=auto",)
    return (*start, f"trainer.max_epochs={epochs[1:]}", f"data.batch_size={batch[1:]}")


def images(root: Path, name: str, folder: Path) -> tuple[str, ...]:
    """Make the class folders of a set, as links; the overrides that name it."""
    kind, _, draw = name.partition("-")
    if kind == "digits":
        return ("data=digits", f"seed={draw}")
    classes, count, tested = SETS[kind]
    rng = random.Random(int(draw))
    for group in classes:
        parts = {part: sorted((root / part / group).iterdir()) for part in ("train", "test")}
        for part, files in (("train", rng.sample(parts["train"], count)), ("test", rng.sample(parts["test"], tested))):
            (folder / part / group).mkdir(parents=True)
            for file in files:
                os.symlink(file.resolve(), folder / part / group / file.name)
    return ("data=imagefolder", f"data.root={folder}", "data.image_size=64", "data.val_fraction=0")


def top1(root: Path, name: str, row: str) -> float:
    """Test accuracy of one run."""
    with tempfile.TemporaryDirectory() as place:
        return float(figures(*COMMON, *images(root, name, Path(place)), *overrides(row))["test/top1"])


def main() -> None:
    """Measure what is not known, and print all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="class folders of CIFAR-10; without it the known cells are shown")
    parser.add_argument("--sets", nargs="+", default=[f"{name}-0" for name in SETS])
    parser.add_argument("--rows", nargs="+", default=list(USUAL))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    known: dict[str, float] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in options.sets if options.root else ():
        for row in options.rows:
            if f"{name} {row}" not in known:
                known[f"{name} {row}"] = top1(options.root, name, row)
                keep(RESULTS, known[f"{name} {row}"], f"{name} {row}")
    for cell, score in sorted(known.items()):
        print(f"{cell:40} {score:.1%}")


if __name__ == "__main__":
    main()

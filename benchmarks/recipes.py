"""The cells that the table of ``recipe=auto`` rests on: small sets of CIFAR-10 and the digits, learning rates, epochs, batch sizes.

    python benchmarks/recipes.py --root DIR                      # class folders DIR/train/CLASS/*, DIR/test/CLASS/*: what is not known yet
    python benchmarks/recipes.py --root DIR --sets four15-0 --rows "probe 0.001 e12 b16"

A set ``ten25-1`` is ten classes, 25 training images of each, draw 1, at 64 px, EfficientNet-Lite0; ``digits-1`` is the digits with seed 1.
The accuracies of a set are of 360 to 500 test images, so a difference below two points in one cell is noise: the table goes by what
several sets of a size say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import warnings
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from visionlora.cli.command import slug
from visionlora.cli.conf import conf_dir
from visionlora.common.config import checked
from visionlora.runs.config import TrainConfig
from visionlora.training.run import run

ALL = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SETS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "four15": (("bird", "deer", "horse", "ship"), 15, 100),
    "ten5": (ALL, 5, 50),
    "catdog60": (("cat", "dog"), 60, 200),
    "autotruck120": (("automobile", "truck"), 120, 200),
    "ten25": (ALL, 25, 50),
    "ten100": (ALL, 100, 50),
}
"""Classes, training images and test images of each."""
QUIET = ("recipe=plain", "callbacks=none", "trainer.enable_progress_bar=false", "logger={}", "data.num_workers=0")
RESULTS = Path(__file__).parent / "results" / "recipes.json"
USUAL = ("plain", "probe 0.001 e12 b16", "probe 0.002 e12 b16", "probe 0.003 e12 b16")


def overrides(row: str) -> tuple[str, ...]:
    """``plain``, or ``probe RATE eEPOCHS bBATCH``, as overrides."""
    if row == "plain":
        return ()
    head, rate, epochs, batch = row.split()
    return (f"model.head_init={head}", f"optim.lr={rate}", f"trainer.max_epochs={epochs[1:]}", f"data.batch_size={batch[1:]}")


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
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    with tempfile.TemporaryDirectory() as place:
        words = (*images(root, name, Path(place, "images")), *overrides(row))
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = checked(TrainConfig, hydra.compose("train", [*QUIET, *words]))
        return float(run(config, Path(place, "run"))["test/top1"])


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
                RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    for cell, score in sorted(known.items()):
        print(f"{cell:40} {score:.1%}")


if __name__ == "__main__":
    main()

"""How many injected faults ``visionlora.check`` finds, and how many images it tells without a fault.

    python benchmarks/injected_faults.py --root DIR     # class folders of CIFAR-10: DIR/train/CLASS/*

Of 100 images a class, drawn by the seed, one per cent each is cut short, named as another format, made grey, copied, copied into the test
part, copied smaller and saved again, and given another class's label.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.runs import composed_as
from visionlora.checking.config import CheckConfig
from visionlora.checking.run import check

OF_EACH = 0.01
KINDS = {
    "cut short": ("unreadable",),
    "named as another format": ("extension",),
    "made grey": ("blank",),
    "copied": ("duplicate", "near duplicate"),
    "copied into the test part": ("in two parts",),
    "copied smaller, saved again": ("near duplicate", "in two parts"),
    "given another class's label": ("label",),
}
"""A fault -> the findings that it may be told as."""


def inject(root: Path, to: Path, seed: int, a_class: int) -> dict[str, str]:
    """Copy images, with faults; the names of those that have one, with the fault."""
    rng = random.Random(seed)
    classes = sorted(path.name for path in (root / "train").iterdir())
    images: list[Path] = []
    for name in classes:
        for part, count in (("train", a_class), ("test", a_class // 5)):
            (to / part / name).mkdir(parents=True)
            for file in rng.sample(sorted((root / part / name).iterdir()), count):
                copied = Path(shutil.copy(file, to / part / name / file.name))
                images += [copied] * (part == "train")
    chosen = rng.sample(images, round(OF_EACH * len(images)) * len(KINDS))
    faults: dict[str, str] = {}
    for number, file in enumerate(chosen):
        kind = list(KINDS)[number % len(KINDS)]
        if kind == "cut short":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif kind == "named as another format":
            file = file.rename(file.with_suffix(".png"))
        elif kind == "made grey":
            Image.fromarray(np.full((32, 32, 3), rng.randrange(60, 200), np.uint8)).save(file)
        elif kind == "copied":
            file = Path(shutil.copy(file, file.with_name(f"zz-{file.name}")))
        elif kind == "copied into the test part":
            shutil.copy(file, to / "test" / file.parent.name / f"zz-{file.name}")
        elif kind == "copied smaller, saved again":
            Image.open(file).resize((28, 28)).save(copy := file.with_name(f"zz-{file.name}"), quality=80)
            file = copy
        else:
            other = rng.choice([name for name in classes if name != file.parent.name])
            file = Path(shutil.move(file, file.parents[1] / other / f"moved-{file.name}"))
        faults[file.relative_to(to).as_posix()] = kind
    return faults


def main() -> None:
    """Inject, check and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="class folders")
    parser.add_argument("--a-class", type=int, default=100, help="training images of each class")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        faults = inject(options.root, Path(place, "images"), options.seed, options.a_class)
        words = ("data=imagefolder", f"data.root={place}/images", "data.image_size=64", "data.num_workers=0", f"output={place}/check")
        found = check(composed_as(CheckConfig, "check", *words))
    told: dict[str, set[str]] = {}
    for finding in found:
        told.setdefault(finding.image, set()).add(finding.finding)
    print("| fault | found | of |\n|---|---:|---:|")
    for kind, as_ in KINDS.items():
        those = [name for name, fault in faults.items() if fault == kind]
        print(f"| {kind} | {sum(bool(told.get(name, set()) & set(as_)) for name in those)} | {len(those)} |")
    false = Counter(finding.finding for finding in found if finding.image not in faults)
    print("told without a fault:", dict(false), "of", options.a_class * 12, "images")


if __name__ == "__main__":
    main()

"""When does LoRA pay? The plain command with few images and with many, beside a probe, ``recipe=plain`` and full fine-tuning.

    python benchmarks/when_lora_pays.py --root DIR                 # class folders DIR/train/CLASS/*, DIR/test/CLASS/*
    python benchmarks/when_lora_pays.py --root DIR --counts 1 4 16 --draws 0 1 2 --rows probe auto

Every cell is one run of ``visionlora.train data=imagefolder`` on a folder that holds so many training images of each class, drawn by the
number of the draw, and all test images. Cells that are known are not measured again; the figure and the table are made of all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.runs import figures, keep
from visionlora.common.drawing import PALETTE, WIDTH, legend_below, percent, save, styled

ROWS: dict[str, tuple[str, ...]] = {
    "probe": ("recipe=plain", "lora=none", "model.head_init=probe", "optim.lr=1e-9", "trainer.max_epochs=1", "data.val_fraction=0"),
    "plain": ("recipe=plain", "data.val_fraction=0"),
    "full": ("recipe=plain", "lora=full", "data.val_fraction=0"),
    "norm": ("lora=norm", "data.val_fraction=0"),
    "auto": (),
}
WORDS = {
    "probe": "probe",
    "plain": "LoRA, recipe=plain",
    "full": "full fine-tuning, recipe=plain",
    "norm": "norms alone, recipe=auto",
    "auto": "LoRA, recipe=auto (the default)",
}
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
COMMON = ("data=imagefolder", "data.num_workers=0")
RESULTS = Path(__file__).parent / "results" / "when_lora_pays.json"
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of the mean of so many."""


def subset(root: Path, count: int, draw: int, folder: Path) -> None:
    """Class folders with ``count`` training images of each class and all test images, as links."""
    for part in ("train", "test"):
        for group in sorted(path for path in (root / part).iterdir() if path.is_dir()):
            files = sorted(group.iterdir())
            kept = random.Random(f"{draw} {group.name}").sample(files, min(count, len(files))) if part == "train" else files
            (folder / part / group.name).mkdir(parents=True)
            for file in kept:
                os.symlink(file.resolve(), folder / part / group.name / file.name)


def measured(root: Path, row: str, count: int, draw: int, size: int) -> dict[str, float]:
    """Test accuracy, the same with every class weighing as much, and seconds of one run."""
    with tempfile.TemporaryDirectory() as place:
        subset(root, count, draw, Path(place))
        started = time.perf_counter()
        found = figures(*COMMON, f"data.root={place}", f"data.image_size={size}", f"seed={draw}", *ROWS[row])
        scores = {"top1": float(found["test/top1"]), "balanced": float(found["test/balanced"])}
        return scores | {"seconds": time.perf_counter() - started}


def main() -> None:
    """Measure what is not known, then print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="class folders; without it the known cells are shown")
    parser.add_argument("--name", default="cifar10", help="of the images, in the file of results")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--draws", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--figure", type=Path, default=Path("docs/when_lora_pays.png"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    images = f"{options.name} {options.size} px"
    cells = known.get(images, {})
    if options.root:
        for draw in options.draws:
            for count in options.counts:
                for row in options.rows:
                    key = f"{row} {count} {draw}"
                    if key not in cells:
                        cells[key] = measured(options.root, row, count, draw, options.size)
                        keep(RESULTS, cells[key], images, key)
                    print(key, f"{balanced(cells[key]):.1%} {cells[key]['seconds']:.0f} s", flush=True)
    print(table(cells))
    save(figure(cells), options.figure)


def balanced(cell: dict[str, float]) -> float:
    """Balanced accuracy: with as many test images of each class, as CIFAR-10 has, it is top-1 accuracy."""
    return cell.get("balanced", cell["top1"])


def of(cells: dict[str, Any], row: str, what: Callable[[dict[str, float]], float] = balanced) -> dict[int, list[float]]:
    """The figures of a row, by images a class."""
    found: dict[int, list[float]] = {}
    for key, cell in cells.items():
        name, count, _ = key.split()
        if name == row:
            found.setdefault(int(count), []).append(what(cell))
    return dict(sorted(found.items()))


def table(cells: dict[str, Any]) -> str:
    """A row for each number of images a class."""
    rows = {row: (of(cells, row), of(cells, row, lambda cell: cell["seconds"])) for row in ROWS}
    lines = [f"| images a class | {' | '.join(WORDS[row] for row in ROWS)} |", "|---:|" + "---:|" * len(ROWS)]
    for count in sorted({count for scores, _ in rows.values() for count in scores}):
        shown = [_shown(scores.get(count, []), seconds.get(count, [])) for scores, seconds in rows.values()]
        lines.append(f"| {count:,} | {' | '.join(shown)} |")
    return "\n".join(lines)


def half_width(scores: list[float]) -> float | None:
    """Half of the 95 % interval of the mean; ``None`` of fewer than three draws, which say next to nothing about it."""
    if len(scores) < 3 or len(scores) not in T_95:
        return None
    return float(T_95[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5)


def _shown(scores: list[float], seconds: list[float]) -> str:
    if not scores:
        return ""
    half = half_width(scores)
    spread = "" if half is None else f" ± {100 * half:.1f}"
    return f"{100 * statistics.mean(scores):.1f}{spread} ({statistics.mean(seconds):.0f} s)"


@styled
def figure(cells: dict[str, Any]) -> Figure:
    """Accuracy over images a class, a line for each row, a point for each draw, and the 95 % interval of the mean of three and more."""
    drawn = Figure(figsize=(WIDTH, 3.4))
    axes = drawn.subplots()
    for row, colour in zip(ROWS, PALETTE, strict=False):
        scores = of(cells, row)
        if not scores:
            continue
        axes.plot(list(scores), [statistics.mean(values) for values in scores.values()], "-", color=colour, label=WORDS[row])
        halves = {count: half_width(values) for count, values in scores.items()}
        known = [count for count, half in halves.items() if half is not None]
        means = [statistics.mean(scores[count]) for count in known]
        axes.errorbar(known, means, [halves[count] or 0.0 for count in known], fmt="none", ecolor=colour, capsize=2, linewidth=0.8)
        points = [(count, value) for count, values in scores.items() for value in values]
        axes.plot([x for x, _ in points], [y for _, y in points], "o", markersize=3, color=colour)
    axes.set(xscale="log", xlabel="training images a class", ylabel="balanced accuracy")
    ticks = sorted({count for row in ROWS for count in of(cells, row)})
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    percent(axes.yaxis)
    legend_below(drawn, axes, columns=2)
    return drawn


if __name__ == "__main__":
    main()

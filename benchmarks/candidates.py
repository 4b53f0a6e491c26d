"""Methods that might pay, against the plain default command: draws of CIFAR-10 at 64 px, the same for all, all 2,000 test images.

    python benchmarks/candidates.py --root DIR                   # class folders DIR/train/CLASS/*, DIR/test/CLASS/*: what is not known yet
    python benchmarks/candidates.py --root DIR --draws 100 101 102 --rows plain "rank_dropout 0.25" "rank_dropout 0.5"
    python benchmarks/candidates.py --times                      # a training step of each, in turn in one process

Every cell is one run of ``visionlora.train data=imagefolder data.image_size=64 data.val_fraction=0 data.folds=0 data.per_class=N``, with
the recipe's settings otherwise; seed and draw (``data.split_seed``) vary together. A row's numbers were chosen on draws from 100 on, the
table is of draws 0 to 9. The baseline of the untouched backbone, which a run measures before it trains, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy import stats
from torch import nn

import visionlora as vl
from benchmarks import candidate_methods as methods
from benchmarks.runs import SILENT, composed
from benchmarks.timing import in_turn
from visionlora.lora.methods import METHODS
from visionlora.training import run as runs

COMMON = ("data=imagefolder", "data.image_size=64", "data.val_fraction=0", "data.folds=0", "data.num_workers=0")
RESULTS = Path(__file__).parent / "results" / "candidates.json"
ROWS = (
    "plain",
    "left",
    "rows_start",
    "rate 0.003",
    "lora.delta_decay=1e-4",
    "rank_dropout 0.25",
    "in_turn 1 rate 0.004",
    "pace 0.5 0.02 4",
)
KINDS = {
    "rank_dropout": (methods.RankDropout, "share"),
    "noise": (methods.NoisyOutputs, "sigma"),
    "left": (methods.LeftMultiplied, None),
    "rows_start": (methods.RowsStart, None),
    "hadamard": (methods.Hadamard, None),
}


@dataclass
class Candidate:
    """What is added to the plain command: overrides, callbacks, and a context that the run is in."""

    overrides: tuple[str, ...] = ()
    callbacks: tuple[Any, ...] = ()
    around: contextlib.AbstractContextManager[Any] = field(default_factory=contextlib.nullcontext)


def candidate(row: str) -> Candidate:
    """A row in words: ``plain``, ``rate LR``, ``key=value``, or one of the prototypes with its numbers, ``rate LR`` after them.

    ``rank_dropout SHARE``, ``pace SIGMA WEIGHT EVERY``, ``left``, ``rows_start``, ``hadamard``, ``in_turn PERIOD``.
    """
    first, _, rate = row.partition(" rate ") if not row.startswith("rate ") else ("plain", "", row.removeprefix("rate "))
    kind, *numbers = first.split()
    more = (f"optim.lr={rate}",) if rate else ()
    if kind == "plain":
        return Candidate(more)
    if "=" in kind:
        return Candidate((*more, kind, *numbers))
    if kind == "in_turn":
        return Candidate(more, (methods.InTurn(int(numbers[0])),))
    if kind == "pace":
        sigma, weight, every = numbers
        return Candidate((*more, named("noise", sigma)), around=methods.consistent(float(weight), int(every)))
    return Candidate((*more, named(kind, *numbers)))


def named(kind: str, *numbers: str) -> str:
    """Register a prototype with its number; the override that asks for it."""
    method, key = KINDS[kind]
    name = "_".join((kind, *numbers))
    if name not in METHODS:
        METHODS.register(name)(type(name, (method,), {key: float(numbers[0])} if key else {}))
    return f"lora.method={name}"


def top1(root: Path, row: str, images: int, draw: int, folder: Path) -> float:
    """Test accuracy of one run."""
    tried = candidate(row)
    words = (f"data.root={root}", f"data.per_class={images}", f"seed={draw}", f"data.split_seed={draw}", *tried.overrides)
    with tried.around, mock.patch.object(runs, "measure_before", return_value={}):
        found = runs.run(composed(*SILENT, *COMMON, *words), folder / "run", tried.callbacks)
    return round(float(found["test/top1"]), 5)


def interval(values: list[float]) -> str:
    """Mean and its 95 % interval by Student's t, in points."""
    if len(values) < 2:
        return f"{100 * statistics.mean(values):+.2f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.mean(values):+.2f} ± {100 * half:.2f}"


def table(cells: dict[str, float], images: int, draws: list[int]) -> str:
    """Every row with its accuracy, and its difference to ``plain`` draw by draw."""
    found: dict[str, dict[int, float]] = {}
    for key, score in cells.items():
        row, count, draw = key.rsplit(" ", 2)
        if int(count) == images and int(draw) in draws:
            found.setdefault(row, {})[int(draw)] = score
    plain = found.get("plain", {})
    lines = [f"{images} images a class", "| row | draws | top-1, % | beyond plain, points |", "|---|---:|---:|---:|"]
    for row, own in found.items():
        both = [draw for draw in own if draw in plain]
        if both:
            mean = 100 * statistics.mean(own[draw] for draw in both)
            gain = interval([own[draw] - plain[draw] for draw in both])
            lines.append(f"| `{row}` | {len(both)} | {mean:.2f} | {gain} |")
    return "\n".join(lines)


def steps(row: str, rate: float = 1e-4) -> Iterator[None]:
    """Training steps of EfficientNet-Lite0 with random weights at 64 px, in batches of 16 at bf16, as the row has them."""
    torch.manual_seed(0)
    tried = candidate(row)
    method = next((word.partition("=")[2] for word in tried.overrides if word.startswith("lora.method=")), "lora")
    model = vl.create_backbone("timm/tf_efficientnet_lite0", 10, pretrained=False)
    vl.inject(model, vl.LoraConfig(method=method, r=4))
    vl.fold(model)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    images, labels = torch.randn(16, 3, 64, 64).to(memory_format=torch.channels_last), torch.arange(16) % 10
    for turn in range(2**31):
        if tried.callbacks:
            methods.take_turn(model, turn // tried.callbacks[0].period)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def times(rows: list[str], rounds: int) -> str:
    """Median milliseconds of two steps of each row, in turn; two, because ``in_turn`` trains another factor in each."""

    def two(row: str) -> Any:
        taken = steps(row)
        return lambda: (next(taken), next(taken))

    found = in_turn({row: two(row) for row in rows}, rounds)
    return "\n".join(f"| `{row}` | {500 * value:.1f} ms | {value / found['plain']:.2f} × |" for row, value in found.items())


def main() -> None:
    """Measure what is not known, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="class folders of CIFAR-10; without it the known cells are shown")
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--images", type=int, default=25, help="training images of each class")
    parser.add_argument("--times", action="store_true", help="a training step of each row")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.times:
        print(times(options.rows, options.rounds))
        return
    cells: dict[str, float] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for draw in options.draws if options.root else ():
        for row in options.rows:
            key = f"{row} {options.images} {draw}"
            if key not in cells:
                with tempfile.TemporaryDirectory() as folder:
                    cells[key] = top1(options.root, row, options.images, draw, Path(folder))
                RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
            print(key, f"{cells[key]:.1%}", flush=True)
    print(table(cells, options.images, options.draws))


if __name__ == "__main__":
    main()

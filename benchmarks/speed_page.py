"""``docs/speed.md`` and its images, from the results of ``step_time.py``, ``scaling.py`` and ``time_to_accuracy.py``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.step_time import table
from visionlora.common.drawing import BLUE, GREY, ORANGE, SKY, VERMILION, WIDTH, legend_below, save_png, styled

RESULTS = Path("benchmarks/results")
LABELS = {
    "full": "full fine-tuning",
    "peft": "PEFT",
    "peft_best": "PEFT, batch-norm frozen",
    "ours": "visionlora",
    "light": "visionlora, light",
    "floor": "floor",
}
COLOURS = {"full": GREY, "peft": VERMILION, "peft_best": ORANGE, "ours": BLUE, "light": SKY, "floor": "#d1e5f0"}
TEXT = """# Speed and memory

Written by `make bench`. {machine}

## A training step

`python benchmarks/step_time.py --help` says what the sides are. In brackets: times of ours. The floor trains nothing: the same model,
folded and in the compute dtype, forward and the gradient of its input.

{steps}
![a step](speed.png)

## Where it comes from

- **Nothing is computed or held for a frozen weight.** A LoRA layer has an autograd function of its own, which holds its input and
  tensors of low rank. Forward it either forms `W + B A` (in float32, rounded once) or adds the low-rank product, and backward it takes the
  gradients by factors or from the whole weight gradient, whichever is cheaper for the layer's shape (`visionlora/lora/kernels/cost.py`).
- **A conv and the frozen batch-norm after it are one conv** (`model.fold_bn=auto`). Pairs are found by watching the data flow. The norm's
  scale multiplies `B` in `forward`; no parameter changes and nothing is ever unfolded by division.
- **Frozen weights are cast once**, not each step. These copies stay beside the originals: half a model more in memory, which the table's
  figures, taken by autograd's hooks, do not have in them.
- **Attention of up to 1,024 tokens on a CPU** is recomputed in the backward pass by plain products instead of torch's fused kernel, whose
  backward is slow there. The floor has torch's.
- Off by default: `model.checkpointing=light` (row "light": outputs of activations and norms, and formed weights, are computed again
  in the backward pass), `blocks` (whole blocks are), and `model.compile=true` (`torch.compile`; a minute or more at the start).

All of it is exact up to rounding: float64 tests hold outputs and gradients to 1e-10 of the plain property, layer by layer and folded.

## How it grows

`python benchmarks/scaling.py`: ResNet-18, bf16, 128 px, batch 32, rank 8, but for what is varied (depth: ResNets, batch 8; resolution:
batch 16).

{scaling}
## The rule against fixed choices

`python benchmarks/cost_rule.py`: milliseconds of our step at bf16 with the cost rule, and with one way for every layer.

{rule}
## What stands between ours and the floor

`python benchmarks/above_floor.py`: milliseconds of a step at bf16, ours less the floor's, by operation (torch's profiler).

{above}
## Time to accuracy

`python benchmarks/time_to_accuracy.py --root DIR`: EfficientNet-Lite0 at 96 px, one plain loop with a one-cycle schedule for all sides,
trained for longer and longer until 84 % of CIFAR-10's 2,000 test images are right at the end; seconds of that training (one seed).

{accuracy}
## Start

`python benchmarks/startup.py`: seconds of a fresh process.

{startup}
"""


def machine() -> str:
    """What the figures were taken on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    amx = ", AMX" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ""
    return f"Commit {commit}, torch {torch.__version__.split('+')[0]}, {os.cpu_count()} cores of {platform.machine()}{amx}."


def scaling_table(rows: list[dict[str, Any]]) -> str:
    """A line a point."""
    lines = ["| | | ms: ours | PEFT | MiB held: ours | PEFT |", "|---|---:|---:|---:|---:|---:|"]
    for ours, peft in zip(rows[::2], rows[1::2], strict=True):
        ratio = f"{peft['ms']:.0f} ({peft['ms'] / ours['ms']:.2f} ×)"
        lines.append(
            f"| {ours['varied']} | {ours['value']} | {ours['ms']:.0f} | {ratio} | {ours['saved_mib']:.0f} | {peft['saved_mib']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plain_table(rows: dict[str, dict[str, float]], digits: int = 0) -> str:
    """A line a key, a column a key of its values."""
    columns = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(f"{row[column]:.{digits}f}" for column in columns) + " |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """A line a side."""
    names = LABELS | {"full": "full fine-tuning, batch-norm moving", "full_frozen_bn": "full fine-tuning, batch-norm frozen"}
    lines = ["| | seconds | epochs | accuracy then |", "|---|---:|---:|---:|"]
    for row in rows:
        seconds = f"{row['seconds']:.0f}" if row["reached"] else f"not in {row['seconds']:.0f}"
        lines.append(f"| {names[row['side']]} | {seconds} | {row['epochs']} | {row['accuracy']:.1%} |")
    return "\n".join(lines) + "\n"


@styled
def picture(rows: list[dict[str, Any]]) -> Figure:
    """Times and memory at bf16, as bars."""
    rows = [row for row in rows if row["precision"] == "bf16"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(WIDTH, 3))
    times, memory = figure.subplots(1, 2)
    for axes, key, words in ((times, "ms", "time of a training step, ms"), (memory, "saved_mib", "held for the backward pass, MiB")):
        for number, side in enumerate(LABELS):
            heights = [next(row[key] for row in rows if row["model"] == model and row["side"] == side) for model in models]
            axes.bar([i + (number - 2.5) * 0.14 for i in range(len(models))], heights, 0.13, label=LABELS[side], color=COLOURS[side])
        axes.set_xticks(range(len(models)), models, rotation=20, ha="right")
        axes.set_ylabel(words)
        axes.grid(visible=False, axis="x")
    legend_below(figure, times)
    return figure


def main() -> None:
    """Write the page, or its image alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="store_true", help="draw docs/speed.png anew and leave the page as it is")
    steps = json.loads((RESULTS / "step_time.json").read_text())
    alone = parser.parse_args().picture
    save_png(picture(steps), Path("docs/speed.png"))
    if not alone:
        write_page(steps)


def write_page(steps: list[dict[str, Any]]) -> None:
    """``docs/speed.md``."""
    scaling, accuracy = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("scaling", "time_to_accuracy"))
    startup = json.loads((RESULTS / "startup.json").read_text())
    rule, above = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("cost_rule", "above_floor"))
    page = TEXT.format(
        machine=machine(),
        steps=table(steps),
        scaling=scaling_table(scaling),
        rule=plain_table(rule),
        above=plain_table(above),
        accuracy=accuracy_table(accuracy),
        startup="| | seconds |\n|---|---:|\n" + "\n".join(f"| {name} | {value:.1f} |" for name, value in startup.items()),
    )
    Path("docs/speed.md").write_text(page)


if __name__ == "__main__":
    main()

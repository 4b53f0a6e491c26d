"""A training step of five models: full fine-tuning, PEFT, ours and the floor, in turn in one process.

    python benchmarks/step_time.py --out benchmarks/results/step_time.json

Sides, all with AdamW, channels_last, the same layers (every linear and ungrouped conv but the head) and rank 8:

- ``full``: every weight trained, batch-norm moving; under autocast at bf16.
- ``peft``: PEFT as its examples run it: ``get_peft_model``, ``model.train()``, batch-norm moving; under autocast at bf16.
- ``peft_best``: the same with batch-norm in eval mode.
- ``ours``: ``vl.inject`` and ``vl.fold``, as ``visionlora.train`` runs it.
- ``light``: the same with ``model.checkpointing=light``.
- ``floor``: the same model without adapters, folded and in the compute dtype: forward and the gradient of the input, nothing else.
  Attention is torch's own there.

A round takes one step of each side; figures are medians over rounds. ``saved_mib`` is what autograd holds between forward and backward:
distinct storages, parameters and buffers aside, cast copies included. ``peak_rss_mib`` is of a process of its own that takes a few
steps of that side.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import visionlora as vl
from benchmarks.timing import in_turn
from visionlora.lora.targets import candidates
from visionlora.speed import attention
from visionlora.speed.checkpointing import checkpoint_activations
from visionlora.training.callbacks import peak_memory_mib

SIDES = ("full", "peft", "peft_best", "ours", "light", "floor")
RANK = 8


@dataclass(frozen=True)
class Case:
    """A model with its input; ``channels`` of the images are always three."""

    name: str
    image_size: int
    batch: int


CASES = {
    "resnet18": Case("timm/resnet18", 128, 32),
    "resnet50": Case("timm/resnet50", 128, 16),
    "efficientnet_lite0": Case("timm/tf_efficientnet_lite0", 96, 64),
    "vit_tiny": Case("timm/vit_tiny_patch16_224", 224, 8),
    "convnext_atto": Case("timm/convnext_atto", 128, 32),
}


class Side:
    """One way to train one model: a step, and what it holds.

    Args:
        name: of ``SIDES``.
        case: model and input.
        precision: ``float32`` or ``bf16``.
        rank: of the adapters.
    """

    def __init__(self, name: str, case: Case, precision: str, rank: int = RANK) -> None:
        torch.manual_seed(0)
        self.name, self.precision = name, precision
        size = (case.batch, 3, case.image_size, case.image_size)
        self.images = torch.randn(size).to(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (case.batch,))
        self.model = self._adapted(vl.create_backbone(case.name, 10, pretrained=False), rank)
        self.model.to(memory_format=torch.channels_last)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None
        if name == "floor":
            self.images.requires_grad_(True)

    def _adapted(self, model: nn.Module, rank: int) -> nn.Module:
        if self.name == "full":
            return model.train()
        if self.name in ("peft", "peft_best"):
            return peft_model(model, rank, batch_norm_moves=self.name == "peft")
        if self.name in ("ours", "light"):
            vl.inject(model, vl.LoraConfig(r=rank, targets="auto"))
        else:
            vl.inject(model, vl.LoraConfig(method="none"))
            model.requires_grad_(False)
        vl.fold(model)
        if self.name == "light":
            checkpoint_activations(model)
        if self.name == "floor":
            for module in model.modules():
                attention.use_fused(module)
        return model.train()

    def loss(self) -> Tensor:
        """Of one forward pass."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(self.images)
        loss: Tensor = nn.functional.cross_entropy(logits.float(), self.labels)
        return loss

    def step(self) -> None:
        """Forward, backward and update."""
        self.loss().backward()
        if self.optimizer:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.images.grad = None

    def saved_mib(self) -> float:
        """What autograd holds after a forward pass."""
        return saved_mib(self.loss, (*self.model.parameters(), *self.model.buffers(), self.images))


def saved_mib(loss: Callable[[], Tensor], there: Iterable[Tensor]) -> float:
    """What autograd holds after ``loss()``, in MiB: distinct storages, but for those of the tensors that are ``there`` anyway."""
    own = {tensor.untyped_storage().data_ptr() for tensor in there}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = loss()
    del kept
    return sum(found.values()) / 2**20


def peft_model(model: nn.Module, rank: int, batch_norm_moves: bool) -> nn.Module:
    import peft

    head = vl.find_head(model)
    names = [s.module_name for s in candidates(model, head).values() if not s.part and not s.is_depthwise]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, modules_to_save=list(head))
    adapted: nn.Module = peft.get_peft_model(model, config).train()
    if not batch_norm_moves:
        for module in adapted.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    return adapted


def measure(key: str, precision: str, sides: list[str], rounds: int) -> list[dict[str, Any]]:
    """Rows of one model and precision."""
    all_sides = {name: Side(name, CASES[key], precision) for name in sides}
    times = in_turn({name: side.step for name, side in all_sides.items()}, rounds)
    rows = []
    for name, side in all_sides.items():
        ms, saved = round(1000 * times[name], 2), round(side.saved_mib(), 1)
        rows.append({"model": key, "precision": precision, "side": name, "ms": ms, "saved_mib": saved, "trainable": side.trainable})
    del all_sides
    gc.collect()
    return rows


def peak_rss(key: str, precision: str, side: str) -> float:
    """MiB at most resident in a fresh process that takes a few steps."""
    call = [sys.executable, __file__, "--peak-of", key, precision, side]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a model and precision; times as ratios to ours, and the geometric means."""
    lines = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        of = {(row["model"], row["side"]): row for row in rows if row["precision"] == precision}
        models = list(dict.fromkeys(model for model, _ in of))
        sides = [side for side in SIDES if all((model, side) in of for model in models)]
        lines += [f"**{precision}**", "", f"| ms a step | {' | '.join(sides)} |", "|---|" + "---:|" * len(sides)]
        for model in models:
            lines.append(f"| {model} | " + " | ".join(_cell(of, model, side) for side in sides) + " |")
        means = {side: math.exp(statistics.mean(math.log(_ratio(of, model, side)) for model in models)) for side in sides}
        lines.append("| geometric mean, of ours | " + " | ".join(f"{means[side]:.2f} ×" for side in sides) + " |")
        for key, what in (
            ("saved_mib", "held for the backward pass, MiB"),
            ("peak_rss_mib", "peak resident, MiB"),
            ("trainable", "trained"),
        ):
            if any(key not in row for row in of.values()):
                continue
            lines += ["", f"| {what} | {' | '.join(sides)} |", "|---|" + "---:|" * len(sides)]
            lines += [f"| {model} | " + " | ".join(f"{of[model, side][key]:,.0f}" for side in sides) + " |" for model in models]
        lines.append("")
    return "\n".join(lines)


def _ratio(of: dict[tuple[str, str], dict[str, Any]], model: str, side: str) -> float:
    return float(of[model, side]["ms"]) / float(of[model, "ours"]["ms"]) if (model, "ours") in of else float("nan")


def _cell(of: dict[tuple[str, str], dict[str, Any]], model: str, side: str) -> str:
    return f"{of[model, side]['ms']:.0f}" + (f" ({_ratio(of, model, side):.2f} ×)" if side != "ours" else "")


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step_time.json"))
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--precisions", nargs="+", default=["bf16", "float32"], choices=["bf16", "float32"])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", action="store_true", help="peak resident memory too (first precision), in processes of their own")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.peak_of:
        key, precision, name = options.peak_of
        side = Side(name, CASES[key], precision)
        for _ in range(3):
            side.step()
        print(peak_memory_mib())
        return
    rows = []
    for precision in options.precisions:
        for key in options.models:
            found = measure(key, precision, options.sides, options.rounds)
            for row in found:
                if options.peak and precision == options.precisions[0]:
                    row["peak_rss_mib"] = round(peak_rss(key, precision, row["side"]), 1)
                print(json.dumps(row), file=sys.stderr, flush=True)
            rows += found
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(table(rows))


if __name__ == "__main__":
    main()

"""What adapters cost beside training: injecting, saving, switching; and what each method costs in a step.

    python benchmarks/adapters.py --out docs/costs.md

All sides of a comparison are taken in turn in one process; figures are medians. ViT-B/16 for the costs at rest, EfficientNet-Lite0
(96 px, batch 32, all layers, r = 8, float32) for the step. Bytes held for the backward pass are of distinct storages, parameters aside.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import visionlora as vl
from benchmarks.timing import in_turn
from visionlora.lora.injection import adapter_parameters
from visionlora.lora.layer import lora_layers

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"method": "dora"},
    "PiSSA, MiLoRA, OLoRA": {"init": "pissa"},
    "LoRA-FA": {"freeze_a": True},
    "AdaLoRA": {"method": "adalora"},
}


def allocated_by(function: Callable[[], Any]) -> int:
    """Bytes torch allocated during the call and still holds after it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return sum(event.self_cpu_memory_usage for event in profile.events())


def saved_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes held for the backward pass of one forward, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(x)
    del kept
    return sum(found.values())


def vit() -> nn.Module:
    """ViT-B/16 with random weights."""
    return vl.create_backbone("timm/vit_base_patch16_224", 10, pretrained=False)


def at_rest(rounds: int) -> list[tuple[str, str, str]]:
    """``(what, measured, compared with)``."""
    model = vit()
    image = vl.example_batch(model)[:1]
    config, plain = vl.LoraConfig(r=8), vl.LoraConfig(r=8)

    def inject(example: torch.Tensor | None) -> None:
        vl.lora.inject(model, config, head=["head"], example=example)
        vl.remove(model)

    def forward_backward() -> None:
        loss: Any = model(batch).sum()
        loss.backward()
        model.zero_grad()

    batch = vl.example_batch(model)
    sides = {"build": vit, "inject": lambda: inject(None), "audited": lambda: inject(batch), "step": forward_backward}
    times = in_turn(sides, rounds)
    head = model.get_submodule("head")
    held = allocated_by(lambda: vl.lora.inject(model, plain, head=["head"]))
    adapters = 4 * adapter_parameters(model)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        vl.save_adapter(model, folder)
        size = (Path(folder) / "adapter_model.safetensors").stat().st_size
        vl.load_adapter(model, folder, name="second")
        with torch.no_grad():
            names = iter(["default", "second"] * (rounds + 1))
            switching = in_turn({"switch": lambda: vl.activate(model, next(names)), "forward": lambda: model(image)}, rounds)
    tensors = adapters + 4 * sum(p.numel() for p in head.parameters())
    return [
        ("injecting", f"{times['inject']:.2f} s", f"building the model {times['build']:.2f} s"),
        ("the audit", f"{times['audited'] - times['inject']:.2f} s", f"a full forward and backward of its batch {times['step']:.2f} s"),
        ("memory held by injecting", f"{held / 2**20:.2f} MiB", f"the adapters' {adapters / 2**20:.2f} MiB"),
        ("`save_adapter` writes", f"{size / 2**20:.2f} MiB", f"adapters and head {tensors / 2**20:.2f} MiB"),
        (
            "switching adapters",
            f"{1000 * switching['switch']:.1f} ms",
            f"a forward pass of one image {1000 * switching['forward']:.0f} ms",
        ),
    ]


def steps(rounds: int) -> list[tuple[str, float, float, int]]:
    """``(method, milliseconds, MiB held for the backward pass, trainable parameters)``."""
    sides: dict[str, Callable[[], Any]] = {}
    rows: dict[str, tuple[float, int]] = {}
    x, y = torch.randn(32, 3, 96, 96), torch.randint(10, (32,))
    for name, options in METHODS.items():
        model = vl.create_backbone("timm/tf_efficientnet_lite0", 10, pretrained=False)
        report = vl.inject(model, vl.LoraConfig(r=8, targets="all", **options))
        model = model.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            loss: Any = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

        sides[name] = step
        rows[name] = (saved_bytes(model, x) / 2**20, report.trainable)
        assert any(True for _ in lora_layers(model))
    times = in_turn(sides, rounds)
    return [(name, 1000 * times[name], *rows[name]) for name in METHODS]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/costs.md"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    lines = ["# What adapters cost", "", "Written by `make bench-adapters` (`benchmarks/adapters.py`); medians, sides taken in turn.", ""]
    lines += ["On ViT-B/16 (86 M parameters), r = 8 in every linear and conv layer:", "", "| | | against |", "|---|---:|---|"]
    lines += [f"| {' | '.join(row)} |" for row in at_rest(options.rounds)]
    lines += ["", "A training step of EfficientNet-Lite0, 96 px, batch 32, r = 8 in every layer, float32:", ""]
    lines += ["| method | ms | of LoRA's | MiB held for the backward pass | trainable |", "|---|---:|---:|---:|---:|"]
    rows = steps(options.rounds)
    lines += [f"| {name} | {ms:.0f} | {ms / rows[0][1]:.2f} | {mib:.0f} | {trainable:,} |" for name, ms, mib, trainable in rows]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

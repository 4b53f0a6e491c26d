"""A family through the very commands that a user types, and through ``vl.load``; then through ``family_checks``."""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import _registry

import visionlora as vl
from benchmarks.family_checks import check, ours
from benchmarks.forks import Forks, command
from visionlora.backbone.info import info_of
from visionlora.lora.adapter import Adapter

PRELOAD = ("benchmarks.family_commands", "visionlora.training.run", "visionlora.evaluation.measure", "visionlora.exporting.export")
SIZES = (64, 96, 128, 160, 192, 224)
"""Sides of images that are tried, the smallest first; then the model's own."""
SHALLOW: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "beit_base_patch16_224": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 2, "global_attn_indexes": (1,)},
}
"""Families whose smallest model is huge: their blocks are all alike, so it is built with fewer of them, under its own name."""
DATA = ("data=fake", "data.num_images=16", "data.val_fraction=0.25", "data.batch_size=2")
TRAINING = ("model.pretrained=false", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.enable_progress_bar=false")


def through(forks: Forks, full_name: str, size: int, graphs: bool) -> dict[str, Any]:
    """Train, evaluate, load, merge and export, then every check in float64, each in a process of its own; stops at the first failure.

    Args:
        forks: starts the processes.
        full_name: ``timm/NAME`` or ``torchvision/NAME``.
        size: side of the images.
        graphs: export as ONNX and a ``torch.export`` program too, which takes most of the time.
    """
    source, _, name = full_name.partition("/")
    result: dict[str, Any] = {"model": full_name, "image_size": size, "passed": [], "failed": "", "why": ""}
    with tempfile.TemporaryDirectory() as place:
        run = f"run={place}/run"
        model = (f"model={source}", f"model.name={name}", f"data.image_size={size}")
        steps: dict[str, tuple[Any, ...]] = {
            "train": (typed, "train", *model, *DATA, *TRAINING, f"hydra.run.dir={place}/run"),
            "evaluate": (typed, "evaluate", run, "figures=false"),
            "load": (loaded_and_merged, f"{place}/run"),
            "export": (typed, "export", run, f"format={source}"),
            "checks": (checks, full_name, size),
        }
        if graphs:
            steps |= {format_: (typed, "export", run, f"format={format_}") for format_ in ("pt2", "onnx")}
        return in_turn(forks, steps, result)


def in_turn(forks: Forks, steps: dict[str, tuple[Any, ...]], result: dict[str, Any]) -> dict[str, Any]:
    """``result`` with what came of each step, a function and its arguments, up to the first that fails."""
    for step, (function, *arguments) in steps.items():
        ended = forks.run(function, *arguments, timeout=1200)
        if step == "checks" and not ended.error:
            passed = [*result["passed"], *ended.value["passed"]]
            result |= ended.value | {"passed": passed}
        elif ended.error:
            result |= {"failed": step, "why": ended.error}
        else:
            result["passed"].append(step)
        if result["failed"]:
            break
    return result


def typed(module: str, *overrides: str) -> None:
    """``python -m visionlora.MODULE OVERRIDES``."""
    build_shallow()
    command(module, *overrides)


def build_shallow() -> None:
    """In this process, let timm build the huge ones with fewer blocks."""
    for name, fewer in SHALLOW.items():
        _registry._model_entrypoints[name] = partial(timm.model_entrypoint(name), **fewer)


def loaded_and_merged(run: str) -> None:
    """``vl.load``: the model is what training left, has learned something, and merging changes nothing.

    In float64: a head that starts as the probe of a backbone with random weights has large weights that nearly cancel each other, which
    makes much of a rounding.
    """
    build_shallow()
    model = vl.load(run).model.double()
    x = vl.example_batch(model)
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    if not any(bool(adapter.lora_B.any()) for adapter in adapters):
        raise RuntimeError("a step of training has moved no adapter")
    with torch.no_grad():
        wanted = model(x)
        vl.merge(model, keep=False)
        got = model(x)
    gap = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not gap < 1e-9:
        raise RuntimeError(f"the merged model differs by {gap:.1g}")
    if json.loads(Path(run, "results.json").read_text())["epochs"] != 1:
        raise RuntimeError("no epoch was trained")


def checks(full_name: str, size: int) -> dict[str, Any]:
    """``family_checks`` of ours."""
    warnings.filterwarnings("ignore")
    build_shallow()
    return check(full_name, ours(), size)


def smallest_size(full_name: str) -> int:
    """The first of ``SIZES`` that the model takes, or its own."""
    warnings.filterwarnings("ignore")
    build_shallow()
    for size in SIZES:
        try:
            model = vl.create_backbone(full_name, 4, pretrained=False, image_size=size).eval()
            with torch.no_grad():
                model(vl.example_batch(model))
        except Exception:  # whatever a library raises
            continue
        return size
    info = info_of(vl.create_backbone(full_name, 4, pretrained=False))
    assert info is not None
    return info.preprocessing.image_size

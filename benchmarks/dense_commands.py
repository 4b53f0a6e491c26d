"""A model for boxes or masks through the very commands that a user types, and through ``vl.load``; then through ``family_checks``."""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import visionlora as vl
from benchmarks.family_checks import check, ours
from benchmarks.family_commands import PRELOAD, SIZES, TRAINING, in_turn, typed
from benchmarks.forks import Forks
from visionlora.backbone.info import info_of
from visionlora.backbone.placed import two_stage_masks
from visionlora.common.errors import UserError
from visionlora.data.sources import scenes
from visionlora.lora.adapter import Adapter
from visionlora.runs.predictor import Predictor
from visionlora.tasks.detect.alignment import same_rows

IMPORTED = (*PRELOAD, "benchmarks.dense_commands", "segmentation_models_pytorch", "faster_coco_eval", "torchmetrics.detection")
"""What the processes find imported."""
SCENES = {"train": 8, "val": 4, "test": 4}
"""Pictures of each part of ``data=digits`` here: the same ones as ever, but fewer of them."""
MASKS = (8, 8)
"""Proposals of an image to which Mask R-CNN gives a mask here, in place of ``LOOKED_AT``: a hundred take ten times as long, through the
same layers."""
DATA = ("data=digits", "data.batch_size=2", "data.num_workers=0")
SAME = 2e-3
"""Share of a figure, or of a half, by which ``evaluate`` may differ from the training: rounding gives some pixel another class."""
CLASSES = 10


class Cell(NamedTuple):
    """A line of the table: a model, for ``segment`` or ``detect``, and what goes over it, ``None`` for the task's usual."""

    family: str
    task: str
    full_name: str
    decoder: str | None = None

    @property
    def key(self) -> str:
        return " ".join(word for word in (self.task, self.full_name, self.decoder) if word)

    @property
    def words(self) -> tuple[str, ...]:
        """As they are typed after ``python -m visionlora.train``."""
        source, _, name = self.full_name.partition("/")
        over = () if self.decoder is None else (f"model.decoder={self.decoder}",)
        return (f"task={self.task}", f"model={source}", f"model.name={name}", *over)

    @property
    def built_with(self) -> str | None:
        """The decoder that ``vl.create_backbone`` is told."""
        usual = {"segment": "fpn", "detect": "fcos"}[self.task]
        return (self.decoder or usual) if self.full_name.startswith("timm/") else None


def through(forks: Forks, cell: Cell, size: int, graphs: bool) -> dict[str, Any]:
    """Train an epoch, evaluate, load, merge and export, then every check in float64, each in a process of its own; stops where one fails.

    Args:
        forks: starts the processes.
        cell: the model.
        size: side of the images.
        graphs: export as ONNX too.
    """
    result: dict[str, Any] = {"model": cell.full_name, "image_size": size, "passed": [], "failed": "", "why": ""}
    with tempfile.TemporaryDirectory() as place:
        run = f"run={place}/run"
        words = (*cell.words, f"data.image_size={size}", *DATA, *TRAINING[:2], "trainer.enable_progress_bar=false")
        steps: dict[str, tuple[Any, ...]] = {
            "train": (on_few, "train", *words, f"hydra.run.dir={place}/run"),
            "evaluate": (evaluated, f"{place}/run"),
            "load": (loaded_and_merged, f"{place}/run"),
            "export": (on_few, "export", run, "format=state_dict"),
            "checks": (checks, cell.full_name, cell.built_with, size),
        }
        if graphs:
            steps["onnx"] = (on_few, "export", run, "format=onnx", "output=" + str(Path(place, "onnx")))
        return in_turn(forks, steps, result)


def on_few(module: str, *words: str) -> None:
    """``python -m visionlora.MODULE WORDS`` on few pictures, with few masks of objects in each."""
    scenes.SCENES.update(SCENES)
    two_stage_masks.LOOKED_AT = MASKS
    typed(module, *words)


def evaluated(run: str) -> None:
    """``python -m visionlora.evaluate run=RUN``: every figure is what the training has measured."""
    on_few("evaluate", f"run={run}", "figures=false")
    trained = json.loads(Path(run, "results.json").read_text())
    if trained["epochs"] != 1:
        raise RuntimeError("no epoch was trained")
    for key, again in json.loads(Path(run, "evaluation_test.json").read_text()).items():
        first = trained.get(f"test/{key.removeprefix('test/')}")
        if isinstance(first, float) and not abs(first - again) <= SAME * max(abs(first), 0.5):
            raise RuntimeError(f"{key} is {again:.6g} of the run that was read back, {first:.6g} after training")


def loaded_and_merged(run: str) -> None:
    """``vl.load``: the model is what training left, has learned something, and merging changes nothing (in float64)."""
    two_stage_masks.LOOKED_AT = MASKS
    predictor: Predictor = vl.load(run)
    model = predictor.model.double()
    x = vl.example_batch(model)
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    still = sum(not bool(adapter.lora_B.any()) for adapter in adapters)
    if not adapters or still == len(adapters):
        raise RuntimeError("an epoch of training has moved no adapter")
    with torch.no_grad():
        wanted = model(x)
        vl.merge(model, keep=False)
        got, wanted = same_rows(model(x), wanted, CLASSES)
    gap = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not gap < 1e-9:
        raise RuntimeError(f"the merged model differs by {gap:.1g}")


def checks(full_name: str, decoder: str | None, size: int) -> dict[str, Any]:
    """``family_checks`` of ours."""
    two_stage_masks.LOOKED_AT = MASKS
    warnings.filterwarnings("ignore")
    return check(full_name, replace(ours(), draws=3), size, decoder)


def smallest_size(full_name: str, decoder: str | None) -> int:
    """The first of ``SIZES`` that the model takes, or its own; where it takes none, a sentence says why when it is trained."""
    warnings.filterwarnings("ignore")
    for size in SIZES:
        try:
            model = vl.create_backbone(full_name, 4, pretrained=False, image_size=size, decoder=decoder).eval()
            with torch.no_grad():
                model(vl.example_batch(model))
        except Exception:  # whatever a library raises
            continue
        return size
    try:
        info = info_of(vl.create_backbone(full_name, 4, pretrained=False, decoder=decoder))
    except UserError:
        return SIZES[0]
    assert info is not None
    return info.preprocessing.image_size

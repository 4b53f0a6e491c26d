"""From a run folder to its outcome, and from several to a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch

from visionlora.backbone.create import rebuild
from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside
from visionlora.common.process_state import process_as_before
from visionlora.data.config import DataConfig
from visionlora.data.images import left_out
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import probe_head, why_no_probe
from visionlora.runs.folder import RunFolder
from visionlora.runs.predictor import Predictor, load
from visionlora.tasks.interfaces import Outcome
from visionlora.tasks.outcome import outcome_of
from visionlora.tasks.task import Task


@dataclass(frozen=True)
class Compared:
    """One row of a comparison; ``p`` is of the task's test against the first row."""

    name: str
    outcome: Outcome
    trainable: int
    adapter_bytes: int
    model_bytes: int
    fit_seconds: float | None
    memory_mib: float | None
    p: float | None = None

    @property
    def images_per_second(self) -> float:
        return len(self.outcome.targets) / max(self.outcome.seconds, 1e-9)


@process_as_before()
def open_run(run: RunFolder, config: DataConfig, own_data: bool = True) -> tuple[Predictor, ImageData]:
    """The run's model in float32, and data prepared for it.

    Args:
        run: finished.
        config: of the data.
        own_data: it is the run's own, split as the run split it.

    Raises:
        UserError: the data is not there, or has other outputs.
    """
    predictor = load(run.path)
    data = ImageData(config, record=run.read_split() if own_data else None, task=predictor.task.section())
    if data.task.names != predictor.task.names:
        differ = sorted(set(data.task.names) ^ set(predictor.task.names))
        which = f"{', '.join(differ[:5])} is in one of them only" if differ else "they come in another order"
        raise UserError(f"the data's {predictor.task.output_words[1]} are not the run's: {which}.")
    data.task.meet(predictor.info.spec)
    data.prepare_for(predictor.preprocessing)
    if torch.accelerator.is_available() and (device := torch.accelerator.current_accelerator()) is not None:
        predictor.model.to(device)
    return predictor, data


@process_as_before()
def probe(run: RunFolder, data: ImageData) -> Predictor | None:
    """The untouched backbone of the run with the logistic regression of its features as head; ``None`` where it can have none, and why
    is said.
    """
    predictor = load(run.path)
    model = rebuild(predictor.info, run.read_base())
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, devices=1)
    model.eval()
    if why := why_no_probe(trainer, model, predictor.info.head, data.task):
        console.print(f"The untouched backbone has no row of its own, as {why}.", highlight=False, markup=False)
        return None
    probe_head(trainer, model, predictor.info.head[0], data)
    return Predictor(model.float().eval(), predictor.info)


def outcome(predictor: Predictor, data: ImageData, split: str) -> Outcome:
    """Run the model over one part of the data.

    Args:
        predictor: a model in eval mode.
        data: prepared for it.
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: the data has no such part, or none of its images can be read.
    """
    if split not in data.parts:
        raise UserError(f"the run's data has no {split} part; it has {', '.join(data.parts)}.")
    device = next(predictor.model.parameters()).device
    outputs, targets, seconds = [], [], 0.0
    for images, its_targets in data.eval_dataloader(split):
        prepared, _ = data.on_after_batch_transfer((images.to(device), its_targets), 0)
        started = time.perf_counter()
        with torch.inference_mode():
            outputs.append(data.task.condensed(predictor.outputs(prepared)))
        seconds += time.perf_counter() - started
        targets.append(torch.as_tensor(its_targets))
    unreadable = data.unreadable_in(split)
    if not outputs:
        raise UserError(f"none of the {len(unreadable)} images of the {split} part can be read: {left_out(unreadable)}.")
    more = {"seconds": seconds, "unreadable": unreadable}
    return outcome_of(data.task, split, torch.cat(outputs).clone(), data.task.joined(targets), data.readable(split), **more)


def compare(runs: Sequence[RunFolder], configs: Sequence[DataConfig], split: str, own_data: bool = True) -> list[Compared]:
    """The untouched backbone with a probe head, where the task has such, then each run, on the same images.

    Raises:
        UserError: the runs were not measured on the same images.
    """
    rows: list[Compared] = []
    for run, config in zip(runs, configs, strict=True):
        predictor, data = open_run(run, config, own_data)
        if not rows and type(data.task).probe is not Task.probe and (head := probe(run, data)):
            found = outcome(head, data, split)
            size = sum(p.numel() for name in head.info.head for p in head.model.get_submodule(name).parameters())
            rows.append(Compared("untouched backbone, probe", found, size, 4 * size, _bytes(head), None, None))
        rows.append(row_of(run, predictor, outcome(predictor, data, split), rows[0].outcome if rows else None))
    return rows


def row_of(run: RunFolder, predictor: Predictor, found: Outcome, first: Outcome | None) -> Compared:
    """The row of a run in a comparison.

    Args:
        run: with its results.
        predictor: its model.
        found: what it gives for the images.
        first: what the model of the first row gives for them; ``None`` where this is the first.

    Raises:
        UserError: those were other images.
    """
    if first is not None and found.images.names != first.images.names:
        raise UserError(f"{run.path} has another {found.split} part than the first; runs are compared on the same images.")
    results = run.read_results()
    return Compared(
        run.path.name,
        found,
        int(results.get("params/trainable", 0)),
        int(results.get("bytes/adapter", 0)),
        _bytes(predictor),
        results.get("seconds/fit"),
        results.get("memory/peak_mib"),
        None if first is None else first.p_against(found),
    )


def as_rows(rows: Sequence[Compared]) -> list[dict[str, object]]:
    """The comparison as rows of plain values, as they are written to ``comparison.json``."""
    keys = ("name", "trainable", "adapter_bytes", "model_bytes", "fit_seconds", "memory_mib", "p", "images_per_second")
    return [{key: getattr(row, key) for key in keys} | row.outcome.metrics() for row in rows]


def folder_of(run: RunFolder, split: str) -> Path:
    """Where an evaluation's plots go; made when missing."""
    return folder_inside(run.path, f"evaluation_{split}")


def _bytes(predictor: Predictor) -> int:
    own = [tensor for name, tensor in predictor.model.state_dict().items() if ".lora." not in name]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)

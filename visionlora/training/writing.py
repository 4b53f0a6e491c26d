"""What a run writes into its folder and prints, before the training and after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import nn

from visionlora.common.console import kept_in
from visionlora.common.drawing import save
from visionlora.common.files import folder_inside, inside
from visionlora.common.processes import process_rank
from visionlora.data.module import ImageData
from visionlora.model.saving import save_adapter
from visionlora.runs.again import what_is_not_as_it_was
from visionlora.runs.conclusion import conclusion
from visionlora.runs.config import OF_THE_RUN, TrainConfig, portable
from visionlora.runs.folder import RunFolder
from visionlora.runs.log import HASH, hash_of, read_curves
from visionlora.runs.metrics import RunLogger
from visionlora.tasks.task import Task
from visionlora.training import tracking
from visionlora.training.adapted import Adapted, Ranks
from visionlora.training.kept import Strength
from visionlora.training.place import Place, resumable
from visionlora.training.plots import learning_curves, strengths
from visionlora.training.tables import print_beginning, print_results, print_trained


@contextlib.contextmanager
def begun(place: Place, trainer: L.Trainer, data: ImageData, made_with: Mapping[str, Any]) -> Iterator[None]:
    """Mark the folder as this run's, the first thing that is written; inside, its log is kept. Everything has been checked by now."""
    if process_rank():
        yield
        return
    for logger in trainer.loggers if place.resuming else ():
        if isinstance(logger, RunLogger):
            logger.put_aside_if_damaged()
    place.folder.go_on() if place.resuming else place.folder.begin()
    with kept_in(place.folder.log):
        print_beginning(data, made_with, place.resuming)
        yield


def write_settings(
    config: TrainConfig,
    place: Place,
    trainer: L.Trainer,
    data: ImageData,
    adapted: Adapted,
    ranks: Ranks | None,
    base: Mapping[str, torch.Tensor],
    made_with: Mapping[str, Any],
) -> None:
    """What the run is of: its config, the split, the ranks and the base where they cannot be had again; and what is trained."""
    folder = place.folder
    print_trained(adapted.report, adapted.info.spec.full_name, adapted.note)
    what_is_not_as_it_was(config, made_with)
    tracking.begin(trainer.loggers, portable(config) | dict(made_with))
    settings = portable(config)
    began = folder.read_plain_config().get("ckpt_path") if place.resuming and config.ckpt_path == "last" else None
    if began is not None and began not in OF_THE_RUN:  # ``again`` begins from that file too
        settings["ckpt_path"] = began
    beside = {folder.split: data.record, folder.ranks: ranks, folder.base: not adapted.info.reproducible}
    folder.write_config(settings, [path.name for path, wanted in beside.items() if wanted])
    if data.record:
        folder.write_split(data.record)
    if ranks:
        folder.write_ranks({name: [rank.r, rank.alpha] for name, rank in ranks.items()})
    if base:
        folder.write_base(base)


def write_results(
    place: Place, trainer: L.Trainer, model: nn.Module, task: Task, results: dict[str, Any], started: float, strength: Strength
) -> dict[str, Any]:
    """The adapter, the curves and ``results.json``, and what is printed at the end; returns all the figures.

    Args:
        place: of the run.
        trainer: that has trained it.
        model: as it was trained.
        task: that it was trained for.
        results: the figures so far.
        started: by ``time.perf_counter``.
        strength: what was kept of the update.
    """
    with resumable(trainer, place.folder):
        results = results | _left(place.folder, model, task, results, started)
        if strength.tried:
            save(strengths(type(task), strength), inside(place.folder.path, "strength.png"))
    tracking.end(trainer.loggers, place.folder, results, trainer.global_step)
    words = conclusion(task, results, read_curves(place.folder.metrics), place.folder.path)
    print_results(type(task), results, words, place.folder.path)
    return results


def _left(folder: RunFolder, model: nn.Module, task: Task, results: dict[str, Any], started: float) -> dict[str, Any]:
    metrics = {key: value for key, value in results.items() if key.startswith("test/")}
    save_adapter(model, folder_inside(folder.path, folder.adapter.name), extra={"metrics": metrics})
    more: dict[str, Any] = {
        "bytes/adapter": sum(path.stat().st_size for path in folder.adapter.glob("*.safetensors")),
        "seconds/total": time.perf_counter() - started,
        HASH: hash_of(folder.metrics),
    }
    if folder.metrics.is_file():
        save(learning_curves(type(task), read_curves(folder.metrics), results), inside(folder.path, folder.curves.name))
    folder.write_results(results | more)  # last: where it is, nothing is missing
    return more

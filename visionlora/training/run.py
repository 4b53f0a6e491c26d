"""One run, from the checked config to a finished run folder: each step takes what the steps before it have made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from visionlora.common.memory import out_of_memory_told
from visionlora.common.process_state import process_as_before
from visionlora.data.module import USUAL_BATCH, ImageData
from visionlora.evaluation.probe import Linear, probe_head
from visionlora.lora.injection import adapter_parameters
from visionlora.runs.bad_files import BadFiles
from visionlora.runs.checkpoint_io import read_run_checkpoint
from visionlora.runs.config import TrainConfig
from visionlora.runs.provenance import fingerprints, provenance
from visionlora.training import tracking
from visionlora.training.adapted import Adapted, adapt, base_to_keep, build_module, choose_ranks, starts_training
from visionlora.training.caching import cached
from visionlora.training.callbacks import Stopwatch, peak_memory_mib
from visionlora.training.finders import find
from visionlora.training.folds import Folds, cross_validate
from visionlora.training.kept import Strength
from visionlora.training.measuring import load_best, measure_after, measure_before
from visionlora.training.module import TaskModule
from visionlora.training.opening import open_both
from visionlora.training.place import Place, find_place, resumable
from visionlora.training.precision import trustworthy
from visionlora.training.recipe import decide
from visionlora.training.settling import settle
from visionlora.training.strength import choose_strength, keep_probe
from visionlora.training.trainer import build_trainer, check_hardware, fit
from visionlora.training.writing import begun, write_results, write_settings

CrossValidation = Callable[[TrainConfig, Adapted, ImageData], Folds]


@process_as_before()
def run(
    config: TrainConfig, folder: Path, more_callbacks: Sequence[Callback] = (), validate: CrossValidation = cross_validate
) -> dict[str, Any]:
    """Train as ``config`` says and leave a run folder; ``more_callbacks`` beside those of the config, ``validate`` where there are
    folds. The process is left as it was, its random states and settings of torch too.

    Returns:
        The figures of ``results.json``.

    Raises:
        UserError: a mistake in the config, the data, the weights or the checkpoint; nothing is half-written.
    """
    started = time.perf_counter()
    with out_of_memory_told(lambda: config.data.batch_size or USUAL_BATCH), contextlib.ExitStack() as until_the_end:
        check_hardware(config)
        place = find_place(config, folder)
        L.seed_everything(config.seed, verbose=False)
        opened = open_both(config, place)
        config, data, backbone = opened.config, opened.data, opened.backbone
        bad_files = look_for_bad_files(config, place, data)
        ranks = choose_ranks(config, place, backbone, data)
        base = base_to_keep(place, backbone)
        adapted = adapt(config, backbone, ranks)
        config = trustworthy(config, adapted.model)
        config, recipe = decide(config, adapted, data, opened.choices)
        best_by = data.task.leading() if "val" in data.parts else None
        trainer, stopwatch = build_trainer(config, place.folder, place.checkpoint, best_by, (*more_callbacks, bad_files))
        made_with = provenance() | {"precision": str(trainer.precision)} | fingerprints(adapted.info.fingerprint, data.parts)

        until_the_end.enter_context(begun(place, trainer, data, made_with))
        config, found = (config, {}) if place.known else find(config, adapted, data, place.folder)
        if trainer.is_global_zero:
            write_settings(config, place, trainer, data, adapted, ranks, base, made_with)
            bad_files.settle()
            if not place.resuming:
                recipe.tell()
                recipe.write(place.folder)
        del base  # it may be all that keeps the dense weights of a quantised model

        with tracking.closing(trainer.loggers), resumable(trainer, place.folder):
            before = measure_before(trainer, adapted, data)
            folds = by_folds(config, place, adapted, data, validate)
            fitted = train(config, place, adapted, trainer, stopwatch, data)
            checkpoint = load_best(config, trainer, fitted.module, data, place)
            if folds:
                folds.average(adapted.model)
            strength = Strength()
            if config.optim.strength == "auto":
                strength = choose_strength(trainer, adapted, data, folds.strength if folds else None, fitted.probe)
            elif config.optim.strength == "none":
                strength = keep_probe(trainer, adapted, data, fitted.probe)
            settle(trainer, adapted, fitted.module, data, folds.strength if folds else None)
            after = measure_after(trainer, fitted.module, data)
        results = {
            "checkpoint": checkpoint,
            **after,
            **strength.results,
            "folds": data.folds,
            "recipe": recipe.name if "trainer.max_epochs" in recipe.chosen else "",
            **before,
            **fitted.figures,
            **found,
            **counts(config, adapted, trainer, data),
            **made_with,
        }
        if trainer.is_global_zero:
            results = write_results(place, trainer, adapted.model, data.task, results, started, strength)
        return results


def by_folds(config: TrainConfig, place: Place, adapted: Adapted, data: ImageData, validate: CrossValidation) -> Folds | None:
    """What cross-validation leaves; ``None`` without folds. A run that goes on has it in its folder."""
    if not data.folds:
        return None
    if place.resuming:
        return Folds.read(place.folder, bool(config.optim.soup))
    found = validate(config, adapted, data)
    found.write(place.folder)
    return found


def look_for_bad_files(config: TrainConfig, place: Place, data: ImageData) -> BadFiles:
    """The callback that counts images which cannot be read; what has been found so far is looked at.

    Raises:
        UserError: it is more than ``data.max_bad`` allows.
    """
    bad_files = BadFiles(place.folder, data, config.data.max_bad)
    if place.resuming:
        bad_files.recall()
    bad_files.look()
    return bad_files


@dataclass(frozen=True)
class Fitted:
    """A trained module, how long it took, as keys of ``results.json``, and the probe that its head started as, if it did so here."""

    module: TaskModule
    figures: Mapping[str, float]
    probe: Linear | None


def train(config: TrainConfig, place: Place, adapted: Adapted, trainer: L.Trainer, stopwatch: Stopwatch, data: ImageData) -> Fitted:
    """Start the head, cache what is frozen, and fit.

    Raises:
        UserError: see ``fit``, or the best checkpoint of a run that goes on is damaged.
    """
    model, head = adapted.model, adapted.info.head
    probe = None
    if config.model.head_init == "probe" and (place.checkpoint is None or not config.lora.train_head):  # else it is in the checkpoint
        probe = probe_head(trainer, model, head[0], data, to_train=starts_training(config.lora))
    started = time.perf_counter()
    with cached(config, trainer, model, data) as front:
        caching = time.perf_counter() - started if front else 0.0
        module = build_module(config, adapted, data)
        if place.resuming and place.folder.best.is_file():  # it is read at the end: what is wrong with it is told now
            module.check_checkpoint(read_run_checkpoint(place.folder.best), str(place.folder.best))
        if config.model.compile:
            model.compile()
        with module.fed_by(front):
            fit(trainer, module, data, place.checkpoint, stopwatch)
    pruned = {"data/pruned": data.pruning.left_out} if data.pruning else {}  # now: the best checkpoint knows its own number alone
    return Fitted(module, stopwatch.figures() | {"seconds/cache": caching, **pruned}, probe)


def counts(config: TrainConfig, adapted: Adapted, trainer: L.Trainer, data: ImageData) -> dict[str, Any]:
    """Parameters, images, steps and the like, as keys of ``results.json``."""
    return {
        "params/trainable": adapted.report.trainable,
        "params/total": adapted.report.total,
        "params/adapter": adapter_parameters(adapted.model),
        "data/unreadable": len(data.unreadable),
        "memory/peak_mib": peak_memory_mib(),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        **{f"images/{part}": len(data.readable(part)) for part in data.parts},
        "seed": config.seed,
        "task": data.task.name,
        "model": adapted.info.spec.full_name,
        "method": config.lora.method,
    }

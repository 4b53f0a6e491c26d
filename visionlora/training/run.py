"""One run, from the checked config to a finished run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from visionlora.backbone.config import ModelConfig
from visionlora.backbone.create import build
from visionlora.backbone.freeze import moves_statistics
from visionlora.backbone.head import example_batch, find_head
from visionlora.backbone.info import BackboneInfo, BackboneSpec, info_of
from visionlora.common.console import kept_in
from visionlora.common.disk import disk_trouble
from visionlora.common.drawing import save
from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside, inside
from visionlora.common.memory import out_of_memory_told
from visionlora.common.process_state import process_as_before
from visionlora.common.processes import peer_trouble, process_rank
from visionlora.data.module import ImageData
from visionlora.lora.audit import undisturbed
from visionlora.lora.config import LayerRank
from visionlora.lora.injection import adapter_parameters
from visionlora.lora.slots import slots
from visionlora.model.allocation import allocate
from visionlora.model.inject import inject
from visionlora.model.saving import save_adapter
from visionlora.runs.again import repeated_run, what_is_not_as_it_was
from visionlora.runs.bad_files import BadFiles
from visionlora.runs.checkpoint_io import read_run_checkpoint
from visionlora.runs.checkpoints import checked_checkpoint
from visionlora.runs.conclusion import conclusion
from visionlora.runs.config import TrainConfig, portable
from visionlora.runs.folder import RunFolder
from visionlora.runs.log import HASH, hash_of, read_curves
from visionlora.runs.metrics import RunLogger
from visionlora.runs.provenance import fingerprints, provenance
from visionlora.speed.checkpointing import checkpoint_blocks, checkpoint_lightly
from visionlora.speed.folding import fold
from visionlora.speed.quantize import quantize
from visionlora.tasks.baseline import BaselineData, NearestClassMean
from visionlora.tasks.probe import probe_head
from visionlora.training import tracking
from visionlora.training.caching import cached
from visionlora.training.callbacks import peak_memory_mib
from visionlora.training.classifier import Classifier
from visionlora.training.finders import find
from visionlora.training.plots import learning_curves
from visionlora.training.tables import print_beginning, print_results, print_trained
from visionlora.training.trainer import build_trainer, check_hardware, fit

BASELINE_PER_CLASS = 50
"""Training pictures a class from which the class means of ``test_before`` are taken."""


@process_as_before()
def run(config: TrainConfig, folder: Path, more_callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train as ``config`` says and leave a run folder; ``more_callbacks`` beside those of the config. The process is left as it was,
    its random states and settings of torch too.

    Returns:
        The figures of ``results.json``.

    Raises:
        UserError: a mistake in the config, the data, the weights or the checkpoint; nothing is half-written.
    """
    with out_of_memory_told(lambda: config.data.batch_size), contextlib.ExitStack() as until_the_end:
        return _run(config, folder, more_callbacks, until_the_end)


def _run(config: TrainConfig, folder: Path, more_callbacks: Sequence[Callback], until_the_end: contextlib.ExitStack) -> dict[str, Any]:
    started = time.perf_counter()
    check_hardware(config)
    run_folder = RunFolder(folder)
    checkpoint = find_checkpoint(config, run_folder)
    resuming = checkpoint is not None and checkpoint.resolve().parent == run_folder.checkpoints.resolve()
    if not resuming and not process_rank():
        run_folder.refuse_foreign()
    known = run_folder if resuming else repeated_run(config)  # has decided already what a new run decides
    L.seed_everything(config.seed, verbose=False)
    data = ImageData(config.data, config.seed, known.read_split() if known else None)
    model = build_backbone(config, data.classes, known.read_base() if known else None)
    info = info_of(model)
    assert info is not None
    info.preprocessing = data.prepare_for(info.preprocessing, check=True)
    bad_files = BadFiles(run_folder, data, config.data.max_bad)
    if resuming:
        bad_files.recall()
    bad_files.look()
    ranks = choose_ranks(config, model, data, known.read_ranks() if known else None)
    base = {} if info.reproducible or (resuming and run_folder.base.exists()) else base_state(model)  # as it was before quantising
    if config.model.quantize:
        if config.lora.method == "full":
            raise UserError("model.quantize=int8 is for a frozen base; lora=full trains it.")
        quantize(model, info.head)
    report = inject(model, config.lora, example_batch(model), freeze_bn=config.model.freeze_bn, ranks=ranks)
    halve = config.trainer.get("on_oom") == "halve"
    if halve and any(map(moves_statistics, model.modules())):
        raise UserError("trainer.on_oom=halve: moving batch-norm statistics would be those of half a batch; set model.freeze_bn=true.")
    folded = fold(model, fold_bn=config.model.fold_bn == "auto")
    if config.model.checkpointing == "light":
        checkpoint_lightly(model)
    elif config.model.checkpointing == "blocks":
        checkpoint_blocks(model)
    trainer, stopwatch = build_trainer(config, run_folder, checkpoint, "val" in data.parts, (*more_callbacks, bad_files))
    made_with = provenance() | {"precision": str(trainer.precision)} | fingerprints(info.fingerprint, data.parts)
    if not process_rank():  # everything has been checked; nothing has been written yet
        for logger in trainer.loggers if resuming else ():
            if isinstance(logger, RunLogger):
                logger.put_aside_if_damaged()
        run_folder.go_on() if resuming else run_folder.begin()
        until_the_end.enter_context(kept_in(run_folder.log))
        print_beginning(data.parts, len(data.classes), made_with, resuming)
    found = {} if known else find(config, model, info.head, data, run_folder)
    if trainer.is_global_zero:
        print_trained(report, info.spec.full_name, folded.note or report.note)
        what_is_not_as_it_was(config, made_with)
        tracking.begin(trainer.loggers, portable(config) | made_with)
        beside = {run_folder.split: data.record, run_folder.ranks: ranks, run_folder.base: not info.reproducible}
        run_folder.write_config(portable(config), [path.name for path, wanted in beside.items() if wanted])
        if data.record:
            run_folder.write_split(data.record)
        if ranks:
            run_folder.write_ranks({name: [rank.r, rank.alpha] for name, rank in ranks.items()})
        if base:
            run_folder.write_base(base)
        bad_files.settle()
    del base  # it may be all that keeps the dense weights of a quantised model
    with tracking.closing(trainer.loggers), resumable(trainer, run_folder):
        before = measure_before(trainer, model, info, data)
        if config.model.head_init == "probe" and (checkpoint is None or not config.lora.train_head):  # then it is in no checkpoint
            probe_head(trainer, model, info.head[0], data)
        started_caching = time.perf_counter()
        with cached(config, trainer, model, data) as front:
            caching = time.perf_counter() - started_caching if front else 0.0
            module = Classifier(model, len(data.classes), config.optim, info.head, config.seed, config.lora, front, halve)
            if resuming and run_folder.best.is_file():  # it is read at the end: what is wrong with it is told now
                module.check_checkpoint(read_run_checkpoint(run_folder.best), str(run_folder.best))
            if config.model.compile:
                model.compile()
            fit(trainer, module, data, checkpoint, stopwatch)
        timing = stopwatch.figures()  # before a checkpoint is loaded, and with it the stopwatch of its epoch
        after = measure_after(trainer, module, data, run_folder)
    results = {
        **after,
        **before,
        "params/trainable": report.trainable,
        "params/total": report.total,
        "params/adapter": adapter_parameters(module.model),
        **timing,
        **found,
        "seconds/cache": caching,
        "data/unreadable": len(data.unreadable),
        "memory/peak_mib": peak_memory_mib(),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        **{f"images/{part}": len(data.readable(part)) for part in data.parts},
        "seed": config.seed,
        "model": info.spec.full_name,
        "method": config.lora.method,
        **made_with,
    }
    if trainer.is_global_zero:
        with resumable(trainer, run_folder):
            results |= _leave(run_folder, module.model, results, started)
        tracking.end(trainer.loggers, run_folder, results, trainer.global_step)
        print_results(results, conclusion(results, read_curves(run_folder.metrics), folder), folder)
    return results


def find_checkpoint(config: TrainConfig, run_folder: RunFolder) -> Path | None:
    """The file ``ckpt_path`` means.

    Raises:
        UserError: it is not there or damaged; a run never starts afresh when it was asked to resume.
    """
    if config.ckpt_path is None:
        return None
    return checked_checkpoint(run_folder, config.ckpt_path)


def build_backbone(config: TrainConfig, classes: list[str], base: dict[str, torch.Tensor] | None) -> nn.Module:
    """The plain backbone; ``base`` has the weights of a run that is resumed.

    Raises:
        UserError: see ``create_backbone``, or the backbone cannot take pictures of this size.
    """
    spec = BackboneSpec(num_classes=len(classes), image_size=config.data.image_size, **spec_values(config.model))
    backbone = build(spec, base)
    info = info_of(backbone)
    assert info is not None
    info.classes = classes
    example = example_batch(backbone)
    try:
        with undisturbed(backbone), torch.no_grad():
            backbone(example)
    except (RuntimeError, AssertionError, ValueError) as error:
        size, why = info.preprocessing.image_size, " ".join(str(error).split())[:200]
        raise UserError(f"data.image_size={size}: {spec.full_name} cannot take pictures of this size ({why}); try another one.") from None
    return backbone


def choose_ranks(config: TrainConfig, model: nn.Module, data: ImageData, known: dict[str, Any] | None) -> dict[str, LayerRank] | None:
    """The ranks ``lora.budget`` buys, or ``None`` where ``lora.r`` is the rank; ``known`` are those of a run that is resumed."""
    if config.lora.budget is None or config.lora.method in ("none", "full"):
        return None
    if known is not None:
        absent = sorted(set(known) - set(slots(model)))
        if absent:
            raise UserError(f"ranks.json is damaged or of another run: the model has no layer {absent[0][:80]!r}.")
        return {name: LayerRank(r, float(alpha), explicit=True) for name, (r, alpha) in known.items()}
    looks = config.lora.allocate in ("importance", "shift")
    pictures = config.lora.allocate_batches * config.data.batch_size
    loader = data.sample_dataloader(-(-pictures // len(data.classes))) if looks else ()
    reference = data.reference_batches(Path(config.lora.reference), pictures) if config.lora.reference else ()
    return allocate(model, config.lora, [data.on_after_batch_transfer(batch, 0) for batch in loader], reference)


def spec_values(model: ModelConfig) -> dict[str, Any]:
    """The part of the model's config that builds it."""
    known = {field.name for field in fields(BackboneSpec)}
    return {key: value for key, value in asdict(model).items() if key in known}


def base_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The base's own state dict before training; what will be trained whole is copied."""
    info = info_of(model)
    trained = tuple(f"{name}." for name in (*find_head(model), *(info.remade if info else ())))
    return {key: value.clone() if key.startswith(trained) else value for key, value in model.state_dict().items()}


def measure_before(trainer: L.Trainer, model: nn.Module, info: BackboneInfo, data: ImageData) -> dict[str, float]:
    """``test_before/*``: the nearest class mean on the features of the untouched backbone."""
    if "test" not in data.parts:
        return {}
    baseline = NearestClassMean(model, info.head[0], len(data.classes))
    try:
        trainer.validate(baseline, BaselineData(data, BASELINE_PER_CLASS), verbose=False)
        if not baseline.ready:  # trainer.limit_val_batches=0
            return {}
        trainer.test(baseline, BaselineData(data, BASELINE_PER_CLASS), verbose=False)
    finally:
        baseline.close()
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def measure_after(trainer: L.Trainer, module: Classifier, data: ImageData, run_folder: RunFolder) -> dict[str, Any]:
    """``val/*`` and ``test/*`` of the best checkpoint, or of the last where nothing chose a best one."""
    best = "val" in data.parts and run_folder.best.is_file()
    path = run_folder.best if best else run_folder.last if run_folder.last.is_file() else None
    results: dict[str, Any] = {"checkpoint": path.stem if path else "none"}  # none: no epoch was trained
    if "val" in data.parts:
        results |= dict(*trainer.validate(module, data, ckpt_path=path, verbose=False, weights_only=True))
    if "test" in data.parts:
        results |= dict(*trainer.test(module, data, ckpt_path=path, verbose=False, weights_only=True))
    return results


@contextlib.contextmanager
def resumable(trainer: L.Trainer, run_folder: RunFolder) -> Iterator[None]:
    """Inside, Ctrl-C ends in ``KeyboardInterrupt`` (Lightning has put everything in order by then) and an error of the disk, or
    the end of another process of the run, in ``UserError``, both with a word on how to go on.
    """
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"in epoch {trainer.current_epoch + 1}; {_how_to_go_on(run_folder)}") from None
    except Exception as error:
        if process_rank() or not (trouble := disk_trouble(error) or peer_trouble(error)):
            raise
        how = _how_to_go_on(run_folder)
        raise UserError(f"{trouble} {how[0].upper()}{how[1:]}.") from error


def _how_to_go_on(run_folder: RunFolder) -> str:
    if not run_folder.path.is_dir():
        return "go on with the folder where it is now, if it was moved: ckpt_path=last hydra.run.dir=THERE"
    if run_folder.resumable:
        return f"go on with: ckpt_path=last hydra.run.dir={run_folder.path}"
    return "no epoch was finished, so there is no checkpoint"


def _leave(run_folder: RunFolder, model: nn.Module, results: dict[str, Any], started: float) -> dict[str, Any]:
    metrics = {key: value for key, value in results.items() if key.startswith("test/")}
    save_adapter(model, folder_inside(run_folder.path, run_folder.adapter.name), extra={"metrics": metrics})
    more: dict[str, Any] = {
        "bytes/adapter": sum(path.stat().st_size for path in run_folder.adapter.glob("*.safetensors")),
        "seconds/total": time.perf_counter() - started,
        HASH: hash_of(run_folder.metrics),
    }
    if run_folder.metrics.is_file():
        save(learning_curves(read_curves(run_folder.metrics), results), inside(run_folder.path, run_folder.curves.name))
    run_folder.write_results(results | more)  # last: where it is, nothing is missing
    return more

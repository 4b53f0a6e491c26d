"""One run, from the checked config to a finished run folder."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from visionlora.adapting import inject
from visionlora.allocation import allocate
from visionlora.backbone.checkpointing import checkpoint_blocks, checkpoint_lightly
from visionlora.backbone.create import build
from visionlora.backbone.folding import fold
from visionlora.backbone.head import example_batch, find_head
from visionlora.backbone.info import BackboneInfo, BackboneSpec, info_of
from visionlora.backbone.quantize import quantize
from visionlora.baseline import BaselineData, NearestClassMean
from visionlora.caching import cached
from visionlora.callbacks import AdaptiveRanks, RunLogger, Stopwatch, checkpoints, peak_memory_mib
from visionlora.config import ModelConfig, TrainConfig
from visionlora.data.module import ImageData
from visionlora.errors import UserError, did_you_mean
from visionlora.figures import learning_curves
from visionlora.launch import process_rank
from visionlora.lora.audit import undisturbed
from visionlora.lora.config import LayerRank
from visionlora.lora.injection import adapter_parameters
from visionlora.module import Classifier
from visionlora.probe import probe_head
from visionlora.quiet import quiet
from visionlora.resume import portable
from visionlora.run_folder import RunFolder
from visionlora.tables import print_results, print_trained
from visionlora.trained import save_adapter

BASELINE_PER_CLASS = 50
"""Training pictures a class from which the class means of ``test_before`` are taken."""


def run(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train as ``config`` says and leave a run folder.

    Returns:
        The figures of ``results.json``.

    Raises:
        UserError: a mistake in the config, the data, the weights or the checkpoint; nothing is half-written.
    """
    started = time.perf_counter()
    quiet()
    run_folder = RunFolder(folder)
    checkpoint = find_checkpoint(config, run_folder)
    resuming = checkpoint is not None and checkpoint.resolve().parent == run_folder.checkpoints.resolve()
    if not resuming and not process_rank():
        if run_folder.used:
            raise UserError(f"{folder} holds a run already; go on with it by ckpt_path=last, or choose another hydra.run.dir.")
        run_folder.clear()
    L.seed_everything(config.seed, verbose=False)
    data = ImageData(config.data, config.seed, run_folder.read_split() if resuming else None)
    model = build_backbone(config, data.classes, run_folder.read_base() if resuming else None)
    info = info_of(model)
    assert info is not None
    info.preprocessing = data.prepare_for(info.preprocessing)
    ranks = choose_ranks(config, model, data, run_folder.read_ranks() if resuming else None)
    base = {} if info.reproducible or run_folder.base.exists() else base_state(model)  # as it was before quantising
    if config.model.quantize:
        if config.lora.method == "full":
            raise UserError("model.quantize=int8 is for a frozen base; lora=full trains it.")
        quantize(model, info.head)
    report = inject(model, config.lora, example_batch(model), freeze_bn=config.model.freeze_bn, ranks=ranks)
    fold(model, fold_bn=config.model.fold_bn == "auto")
    if config.model.checkpointing == "light":
        checkpoint_lightly(model)
    elif config.model.checkpointing == "blocks":
        checkpoint_blocks(model)
    trainer, stopwatch = build_trainer(config, run_folder, checkpoint, has_val="val" in data.parts)
    if trainer.is_global_zero:
        print_trained(report, info.spec.full_name)
        run_folder.write_config(portable(config))
        data.save_split(run_folder.split)
        if ranks:
            run_folder.write_ranks({name: [rank.r, rank.alpha] for name, rank in ranks.items()})
        if base:
            run_folder.write_base(base)
    del base  # it may be all that keeps the dense weights of a quantised model
    card = {"backbone": info.spec.full_name, "fingerprint": info.fingerprint}
    with interruptible(trainer, run_folder):
        before = measure_before(trainer, model, info, data)
        if config.model.head_init == "probe" and (checkpoint is None or not config.lora.train_head):  # then it is in no checkpoint
            probe_head(trainer, model, info.head[0], data)
        started_caching = time.perf_counter()
        with cached(config, trainer, model, data) as front:
            caching = time.perf_counter() - started_caching if front else 0.0
            module = Classifier(model, len(data.classes), config.optim, info.head, config.seed, card, config.lora, front)
            if config.model.compile:
                model.compile()
            fit(trainer, module, data, checkpoint)
        timing = stopwatch.figures()  # before a checkpoint is loaded, and with it the stopwatch of its epoch
        after = measure_after(trainer, module, data, run_folder)
    results = {
        **after,
        **before,
        "params/trainable": report.trainable,
        "params/total": report.total,
        "params/adapter": adapter_parameters(module.model),
        **timing,
        "seconds/cache": caching,
        "memory/peak_mib": peak_memory_mib(),
        "epochs": trainer.current_epoch,
        "seed": config.seed,
        "model": info.spec.full_name,
        "method": config.lora.method,
        "precision": str(trainer.precision),
    }
    if trainer.is_global_zero:
        results |= _leave(run_folder, module.model, results, started)
        print_results(results, folder)
    return results


def find_checkpoint(config: TrainConfig, run_folder: RunFolder) -> Path | None:
    """The file ``ckpt_path`` means.

    Raises:
        UserError: it is not there; a run never starts afresh when it was asked to resume.
    """
    if config.ckpt_path is None:
        return None
    named = {"last": run_folder.last, "best": run_folder.best}
    path = named.get(config.ckpt_path, Path(config.ckpt_path))
    if not path.is_file():
        raise UserError(f"ckpt_path={config.ckpt_path}: there is no checkpoint {path}; name the run's folder with hydra.run.dir=DIR.")
    return path


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
        return {name: LayerRank(int(r), float(alpha), explicit=True) for name, (r, alpha) in known.items()}
    looks = config.lora.allocate in ("importance", "shift")
    pictures = config.lora.allocate_batches * config.data.batch_size
    loader = data.sample_dataloader(-(-pictures // len(data.classes))) if looks else ()
    reference = data.reference_batches(Path(config.lora.reference), pictures) if config.lora.reference else ()
    return allocate(model, config.lora, [data.on_after_batch_transfer(batch, 0) for batch in loader], reference)


def fit(trainer: L.Trainer, module: Classifier, data: ImageData, checkpoint: Path | None) -> None:
    """``trainer.fit``; a checkpoint of another optimizer is told in one sentence."""
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except ValueError as error:
        if checkpoint is None or "parameter group" not in str(error):
            raise
        raise UserError(f"ckpt_path={checkpoint} was written with another optimizer or other learning-rate groups: {error}.") from None


def spec_values(model: ModelConfig) -> dict[str, Any]:
    """The part of the model's config that builds it."""
    known = {field.name for field in fields(BackboneSpec)}
    return {key: value for key, value in asdict(model).items() if key in known}


def build_trainer(config: TrainConfig, run_folder: RunFolder, checkpoint: Path | None, has_val: bool) -> tuple[L.Trainer, Stopwatch]:
    """Lightning's Trainer from ``config.trainer``, with this run's callbacks and loggers.

    Raises:
        UserError: an argument Lightning does not know or cannot meet here.
    """
    arguments = {key: value for key, value in config.trainer.items() if value is not None}
    known = inspect.signature(L.Trainer.__init__).parameters
    for key in arguments:
        if key not in known:
            raise UserError(f"unknown key trainer.{key}: lightning.Trainer has no such argument.{did_you_mean(key, known)}")
    if arguments.get("precision") == "auto":
        arguments["precision"] = auto_precision(str(arguments.get("accelerator", "auto")))
    if arguments.get("sync_batchnorm") and config.model.freeze_bn:
        raise UserError("trainer.sync_batchnorm=true would let the frozen statistics move; set model.freeze_bn=false with it.")
    if arguments.get("strategy") == "ddp" and config.model.freeze_bn:
        arguments["strategy"] = DDPStrategy(broadcast_buffers=False)  # they do not move, and folded copies of them need not be made anew
    callbacks = [_instantiate("callbacks", name, node) for name, node in config.callbacks.items()]
    monitors = [c.monitor for c in callbacks if str(getattr(c, "monitor", "")).startswith("val/")]
    if monitors and not has_val:
        raise UserError(f"callbacks: one waits for {monitors[0]}, but there is no validation part; set data.val_fraction above 0.")
    if not arguments.get("enable_progress_bar", True):
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.ProgressBar)]
    stopwatch = Stopwatch()
    adaptive = [AdaptiveRanks(config.lora.adaptive, run_folder.last)] if config.lora.method == "adalora" else []
    choose_best = has_val and not adaptive  # before the end its ranks are beyond the budget
    loggers = [RunLogger(run_folder, _global_step(checkpoint)), *(_instantiate("logger", *item) for item in config.logger.items())]
    try:
        trainer = L.Trainer(
            **arguments,
            callbacks=[*callbacks, *adaptive, stopwatch, *checkpoints(run_folder, choose_best)],
            logger=loggers,
            default_root_dir=run_folder.path,
            use_distributed_sampler=False,  # EpochSampler shares out the pictures itself
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None
    return trainer, stopwatch


def auto_precision(accelerator: str) -> Any:
    """``bf16-mixed`` where the hardware computes in it, else float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public ones yet
        return "bf16-mixed" if any(getattr(torch.cpu, check, bool)() for check in checks) else "32-true"
    return "32-true"


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
def interruptible(trainer: L.Trainer, run_folder: RunFolder) -> Iterator[None]:
    """Ctrl-C inside ends in ``KeyboardInterrupt`` with a word on how to go on; Lightning has put everything in order by then."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        stands = run_folder.last.is_file()
        how = (
            f"go on with: ckpt_path=last hydra.run.dir={run_folder.path}" if stands else "no epoch was finished, so there is no checkpoint"
        )
        raise KeyboardInterrupt(f"in epoch {trainer.current_epoch + 1}; {how}") from None


def _leave(run_folder: RunFolder, model: nn.Module, results: dict[str, Any], started: float) -> dict[str, Any]:
    metrics = {key: value for key, value in results.items() if key.startswith("test/")}
    save_adapter(model, run_folder.adapter, extra={"metrics": metrics})
    more = {
        "bytes/adapter": sum(path.stat().st_size for path in run_folder.adapter.glob("*.safetensors")),
        "seconds/total": time.perf_counter() - started,
    }
    run_folder.write_results(results | more)
    if run_folder.metrics.is_file():
        learning_curves(run_folder, results)
    return more


def _instantiate(group: str, name: str, node: Any) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}.{name} needs a _target_, the class to make.")
    try:
        return hydra.utils.instantiate(node)
    except Exception as error:  # whatever the class raises
        reason = " ".join(str(error.__cause__ or error).split())
        extra = (
            f' Install it with: pip install "visionlora[{name}]"' if group == "logger" and "ModuleNotFound" in repr(error.__cause__) else ""
        )
        raise UserError(f"{group}.{name}: {node['_target_']} cannot be made: {reason}.{extra}") from None


def _global_step(checkpoint: Path | None) -> int | None:
    if checkpoint is None:
        return None
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{checkpoint} is damaged or not a checkpoint: {str(error).strip().splitlines()[0]}") from None

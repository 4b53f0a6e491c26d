"""From a config to a model that is ready to be trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionlora.backbone.config import ModelConfig
from visionlora.backbone.create import build
from visionlora.backbone.freeze import moves_statistics
from visionlora.backbone.head import example_batch, find_head
from visionlora.backbone.info import BackboneInfo, BackboneSpec, info_of
from visionlora.backbone.placed.torchvision_models import kind_of_model
from visionlora.backbone.pretrained_head import keep_pretrained_head
from visionlora.common.errors import UserError
from visionlora.data.module import ImageData
from visionlora.lora.audit import undisturbed
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.inject_report import InjectReport
from visionlora.lora.slots import slots
from visionlora.model.inject import inject
from visionlora.runs.config import TrainConfig
from visionlora.speed.checkpointing import checkpoint_activations, checkpoint_blocks
from visionlora.speed.folding import fold
from visionlora.speed.quantize import quantize
from visionlora.tasks.placed import PlacedTask
from visionlora.training.allocation import allocate
from visionlora.training.growing import growth
from visionlora.training.mixing import mixing
from visionlora.training.module import TaskModule
from visionlora.training.place import Place
from visionlora.training.pruned import pruned_loss

Ranks = dict[str, LayerRank]
"""Rank and alpha of each layer, by name."""


@dataclass(frozen=True)
class Backbone:
    """A plain backbone and what is known of it."""

    model: nn.Module
    info: BackboneInfo


@dataclass(frozen=True)
class Adapted:
    """A model that is ready to be trained.

    Args:
        model: the backbone, with adapters and made fast.
        info: of the backbone.
        report: what is trained.
        note: which speed-up was left out and why, ``""`` for none.
        halve: batches may be computed in portions, see ``trainer.on_oom``.
    """

    model: nn.Module
    info: BackboneInfo
    report: InjectReport
    note: str
    halve: bool


def starts_training(lora: LoraConfig) -> bool:
    """Whether layers below the head learn from where it starts; else it is the probe as it is."""
    return lora.method != "none" and lora.train_head


def build_module(config: TrainConfig, adapted: Adapted, data: ImageData) -> TaskModule:
    """What Lightning trains.

    Raises:
        UserError: the task's targets cannot be mixed, as ``data.mixup`` or ``data.cutmix`` asks, or what ``data.progressive`` or
            ``data.prune`` asks for cannot be had.
    """
    module = TaskModule(adapted.model, data.task, config.optim, adapted.info.head, config.seed, config.lora, adapted.halve)
    module.mix = mixing(config.data, data.task)
    module.growth = growth(config.data, data.task, adapted.model, adapted.info)
    module.pruned = pruned_loss(config, data)
    return module


def build_backbone(config: TrainConfig, place: Place, data: ImageData) -> Backbone:
    """The plain backbone; ``data`` is prepared for it.

    Raises:
        UserError: see ``create_backbone``, or the backbone cannot take images of this size.
    """
    _check_halving(config, data)
    values = spec_values(config.model)
    if isinstance(data.task, PlacedTask):
        values["decoder"] = values["decoder"] or decoder_of(data.task, config.model)
    elif values["decoder"] is not None:
        raise UserError(
            f"model.decoder={values['decoder']} is for task=segment or task=detect; task={data.task.name} takes the model's own head."
        )
    elif config.model.source == "torchvision" and (kind := kind_of_model(config.model.name)):
        raise UserError(f"model.name={config.model.name} is for task={kind}; task={data.task.name} takes a classifier.")
    spec = BackboneSpec(num_classes=data.task.outputs, image_size=data.config.image_size, **values)
    data.task.meet(spec)
    model = build(spec, place.known.read_base() if place.known else None)
    info = info_of(model)
    assert info is not None
    info.classes, info.task = data.task.names, data.task.section()
    if config.model.head_init == "pretrained" and not (place.resuming and config.lora.train_head):  # else it is in the checkpoint
        _keep_head(model, data)
    example = example_batch(model)
    try:
        with undisturbed(model), torch.no_grad():
            model(example)
    except (RuntimeError, AssertionError, ValueError) as error:
        size, why = info.preprocessing.image_size, " ".join(str(error).split())[:200]
        other = "another one" if spec.decoder is None else f"another one, or another model.decoder than {spec.decoder}"
        raise UserError(f"data.image_size={size}: {spec.full_name} cannot take images of this size ({why}); try {other}.") from None
    info.preprocessing = data.prepare_for(info.preprocessing, check=True)
    return Backbone(model, info)


def _check_halving(config: TrainConfig, data: ImageData) -> None:
    """See that the loss of a batch can be reckoned in portions, if ``trainer.on_oom`` asks for it."""
    if config.trainer.get("on_oom") == "halve" and not data.task.means_images:
        why = "data.balance=weights" if data.task.balance == "weights" else f"task={data.task.name}"
        raise UserError(
            f"trainer.on_oom=halve: with {why} the loss of a batch is not the mean of its images', and that of its halves would be another;"
            " set data.batch_size lower, and trainer.accumulate_grad_batches higher."
        )


def decoder_of(task: PlacedTask, model: ModelConfig) -> str | None:
    """What goes over the model where ``model.decoder`` is not given: the task's usual one; nothing where the model is one for the task."""
    return task.decoders[0] if model.source == "timm" else None


def _keep_head(model: nn.Module, data: ImageData) -> None:
    if not data.task.classifies:
        raise UserError(f"model.head_init=pretrained: the outputs of task={data.task.name} are no classes of weights; leave it out.")
    keep_pretrained_head(model, [*zip(data.folders, data.classes, strict=True)])


def spec_values(model: ModelConfig) -> dict[str, Any]:
    """The part of the model's config that builds it."""
    known = {field.name for field in fields(BackboneSpec)}
    return {key: value for key, value in asdict(model).items() if key in known}


def choose_ranks(config: TrainConfig, place: Place, backbone: Backbone, data: ImageData) -> Ranks | None:
    """The ranks ``lora.budget`` buys, or ``None`` where ``lora.r`` is the rank; a run that goes on has chosen already.

    Raises:
        UserError: see ``allocate``, or the file with the ranks of the run that goes on is of another model.
    """
    if config.lora.budget is None or config.lora.method in ("none", "full"):
        return None
    known = place.known.read_ranks() if place.known else None
    if known is not None:
        absent = sorted(set(known) - set(slots(backbone.model)))
        if absent:
            raise UserError(f"ranks.json is damaged or of another run: the model has no layer {absent[0][:80]!r}.")
        return {name: LayerRank(r, float(alpha), explicit=True) for name, (r, alpha) in known.items()}
    looks = config.lora.allocate in ("importance", "shift")
    images = config.lora.allocate_batches * data.batch_size
    loader = data.sample_dataloader(-(-images // data.task.outputs)) if looks else ()
    reference = data.reference_batches(Path(config.lora.reference), images) if config.lora.reference else ()
    targets = data.task.targets()
    batches = [(images, targets.of((images, wanted), "train")) for images, wanted in (data.on_after_batch_transfer(b, 0) for b in loader)]
    return allocate(backbone.model, config.lora, batches, reference, data.task.criterion())


def base_to_keep(place: Place, backbone: Backbone) -> dict[str, torch.Tensor]:
    """The base's own state dict where it cannot be had again by name and is not in the run folder yet, else nothing.

    Taken before quantising. What will be trained whole is copied.
    """
    if backbone.info.reproducible or (place.resuming and place.folder.base.exists()):
        return {}
    trained = tuple(f"{name}." for name in (*find_head(backbone.model), *backbone.info.remade))
    return {key: value.clone() if key.startswith(trained) else value for key, value in backbone.model.state_dict().items()}


def adapt(config: TrainConfig, backbone: Backbone, ranks: Ranks | None) -> Adapted:
    """Quantise, inject, fold and recompute, as the config asks for.

    Raises:
        UserError: settings that exclude each other, or see ``inject``.
    """
    model, info = backbone.model, backbone.info
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
        checkpoint_activations(model)
    elif config.model.checkpointing == "blocks":
        checkpoint_blocks(model)
    return Adapted(model, info, report, folded.note or report.note, halve)

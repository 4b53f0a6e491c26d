"""``vl.export``: a model that was trained in a loop of one's own, handed on as the command hands on a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionlora.backbone import timm_models
from visionlora.backbone.head import example_batch
from visionlora.backbone.info import BackboneInfo, Preprocessing, info_of, preprocessing_fits
from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.finite import refuse_not_finite
from visionlora.common.process_state import process_as_before
from visionlora.common.text import in_a_line
from visionlora.common.typed import typed
from visionlora.exporting.config import known_formats
from visionlora.exporting.facts import OTHER_KEYS, Facts, as_used
from visionlora.exporting.writing import Compared, Exported, check_places, write
from visionlora.lora.merging import is_merged, unmerge
from visionlora.tasks.registry import kind_of


@process_as_before()
def export(
    model: nn.Module,
    example: Tensor | None = None,
    format: str | Sequence[str] = "onnx",
    *,
    folder: str | Path,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Exported]:
    """Write a merged float32 copy of a classifier in each format, with its preprocessing, its classes and a card beside it.

    It is what ``python -m visionlora.export`` does with a run: each export is read back by its own runtime and compared with the model
    on ``example``, and all formats are written, or none. The model is copied first and stays as it is, to the bit::

        model = vl.create_backbone("timm/resnet18", num_classes=2, pretrained=False)
        vl.inject(model, vl.LoraConfig(r=4))
        ...  # your loop
        images = torch.randn(2, 3, 224, 224)  # better some of your images, prepared as for training
        (written,) = vl.export(model, images, "onnx", folder="out", classes=["cat", "dog"])
        print(written.folder)  # out/onnx, with model.onnx, preprocessing.json and README.md

    Args:
        model: a classifier with or without adapters, in any mode, of any floating-point type, on any device; from ``create_backbone``,
            timm, torchvision or anywhere.
        example: a batch ``(N, C, H, W)`` as the model takes it; the exports take batches of any N and of just this C, H and W, and
            hold nothing of it. By default noise of the backbone's own input size.
        format: ``onnx``, ``pt2``, ``state_dict``, ``timm`` or ``torchvision``, or several of them. The last two are for models that
            these libraries can build by name.
        folder: gets one folder a format; made when missing.
        classes: names in the order of the logits; by default those that ``model.backbone_info`` knows.
        preprocessing: how an image is prepared, as a mapping with the keys of ``preprocessing.json``; by default as
            ``model.backbone_info`` or timm knows it, at the size of ``example``.
        overwrite: replace an export that is there.

    Returns:
        For each format, in order: its folder, its bytes, and the largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: an unknown format, a package that is missing, something in the way, a model that is no classifier or that a format
            cannot hold, classes or preprocessing that do not fit it, a disk that cannot be written. Nothing was written then.
    """
    formats, target = known_formats(format if isinstance(format, str) else list(format)), Path(folder)
    check_places(formats, target, overwrite)
    torch.set_default_dtype(torch.float32)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        model = _inner(model)
        own = _copy(model)
        images = _images(example_batch(own) if example is None else example)
        logits = _logits(own, images)
        facts = _facts(model, images, logits, classes, preprocessing)
        try:
            return write(own, facts, formats, target, Compared(images, logits, f"{len(images)} images of the example"), None)
        except OSError as error:
            if sentence := disk_trouble(error):
                raise UserError(sentence) from error
            raise


def _inner(model: nn.Module) -> nn.Module:
    """The model without what training may have wrapped around it: ``torch.compile`` and the two kinds of data parallelism."""
    model = getattr(model, "_orig_mod", model)
    return _inner(model.module) if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model


def _copy(model: nn.Module) -> nn.Module:
    """A copy that is written to at will: float32, on the CPU, in eval mode, its adapters not merged."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"a model to export is a torch.nn.Module, not a {type(model).__name__}; that of a finished run: vl.load(RUN).model."
        )
    try:
        own = copy.deepcopy(model)
        if is_merged(own):
            unmerge(own)
        return own.cpu().float().eval().requires_grad_(False)
    except Exception as error:  # modules may hold anything
        raise UserError(f"the model cannot be copied for the export: {in_a_line(error)}") from error


def _images(example: Tensor) -> Tensor:
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point() or not example.numel():
        found = f"{example.dtype} {tuple(example.shape)}" if isinstance(example, Tensor) else f"a {type(example).__name__}"
        raise UserError(f"example is a batch of prepared images, floating-point numbers (N, C, H, W); this one is {found}.")
    return example.detach().to("cpu", torch.float32, copy=True)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    name = type(model).__name__
    try:
        logits = model(images)
    except Exception as error:  # the model is anybody's
        raise UserError(f"{name} does not take the example {tuple(images.shape)}: {in_a_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or not logits.shape[1]:
        found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"a model to export gives logits (N, classes) of a batch; {name} gave {found}.")
    refuse_not_finite([("the output", logits)], name)
    return logits


def _facts(
    model: nn.Module, images: Tensor, logits: Tensor, classes: Sequence[str] | None, given: Preprocessing | Mapping[str, Any] | None
) -> Facts:
    number, shape = logits.shape[1], (images.shape[1], images.shape[2], images.shape[3])
    info = info_of(model) or timm_models.info_of_own(model, number, shape[0], shape[-1])
    prepared = _prepared(given, shape) if given is not None else _at_size(info, shape)
    names = _names(classes, number) if classes is not None else info.classes if info and len(info.classes) == number else []
    if info is None:
        return Facts(type(model).__name__, number, shape, names, prepared)
    return Facts(
        info.spec.full_name, number, shape, names, prepared, replace(info.spec, num_classes=number), info.fingerprint, kind_of(info.task)
    )


def _names(classes: Sequence[str], number: int) -> list[str]:
    names = [classes] if isinstance(classes, str) else list(classes)
    if len(names) != number or not all(isinstance(name, str) for name in names):
        raise UserError(f"classes are {number} texts, one for each logit in order; there are {len(names)}: {str(names)[:80]}.")
    return names


def _at_size(info: BackboneInfo | None, shape: tuple[int, int, int]) -> Preprocessing | None:
    """The backbone's preprocessing for images as they are in the example; ``None`` where it does not know such."""
    if info is None or info.preprocessing.channels != shape[0] or shape[1] != shape[2]:
        return None
    return as_used(replace(info.preprocessing, image_size=shape[1]))


def _prepared(given: Preprocessing | Mapping[str, Any], shape: tuple[int, int, int]) -> Preprocessing:
    values = asdict(given) if isinstance(given, Preprocessing) else dict(given) if isinstance(given, Mapping) else given
    if isinstance(values, dict):
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        values = {key: value for key, value in values.items() if key not in OTHER_KEYS}
    try:
        prepared = typed(Preprocessing, values, "preprocessing")
    except ValueError as error:
        raise UserError(f"{error}; see preprocessing.json of any export.") from None
    for key, fits in preprocessing_fits(prepared, shape[0]).items():
        if not fits:
            raise UserError(f"preprocessing.{key} is out of range or does not fit the example, which is {shape} for each image.")
    if (prepared.image_size, prepared.image_size) != shape[1:]:
        raise UserError(f"preprocessing.image_size={prepared.image_size} makes other images than the example has, which is {shape} each.")
    return as_used(prepared)

"""The part of a model that training changed: what checkpoints and adapters hold."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionlora.backbone.freeze import FrozenStatistics, freeze_statistics, moves_statistics
from visionlora.backbone.head import find_head
from visionlora.backbone.info import BackboneInfo, fingerprint, info_of
from visionlora.common.compat import changes
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.finite import refuse_not_finite
from visionlora.common.versions import package_version
from visionlora.lora import files
from visionlora.lora.adapter_files import CARD, PREFIX, AdapterFiles
from visionlora.lora.injection import is_norm
from visionlora.lora.merging import is_merged
from visionlora.lora.slots import slots
from visionlora.model.adapters import adapter_names, new_adapter
from visionlora.model.attached import attached
from visionlora.model.companions import base_values, own_keys, showing
from visionlora.speed.quantize import quantized

CARD_VERSION = 1


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """State-dict entries that training changes: adapters, trainable parameters, and statistics that are not frozen."""
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    moving = {id(buffer) for module in model.modules() if moves_statistics(module) for buffer in module.buffers(recurse=False)}
    state = model.state_dict(keep_vars=True)
    return {key: value.detach() for key, value in state.items() if ".lora." in key or id(value) in trainable or id(value) in moving}


def check_trained_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """See that every key, shape and kind of what ``trained_state`` gave is the model's, and every value finite.

    Raises:
        UserError: they are not; ``where`` begins the sentence.
    """
    refuse_not_finite(state.items(), where)
    own = trained_state(model)
    for key in sorted(set(own) ^ set(state)):
        raise UserError(f"{where} is from another configuration: {key} is only in {'the file' if key in state else 'the model'}.")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{where} is from another configuration: {key} has shape {tuple(value.shape)}, the model's has {tuple(own[key].shape)}"
                " (another rank or number of classes?)."
            )
        if value.is_floating_point() != own[key].is_floating_point():
            raise UserError(f"{where} is damaged: {key} holds {value.dtype}, the model's {own[key].dtype}.")


@torch.no_grad()
def load_trained_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load what ``trained_state`` gave, see ``check_trained_state``.

    Raises:
        UserError: it does not fit; the model is then as it was.
    """
    check_trained_state(model, state, where)
    own = trained_state(model)
    for key, value in state.items():
        own[key].copy_(value)


def save_adapter(model: nn.Module, folder: str | Path, *, name: str = "default", extra: Mapping[str, Any] | None = None) -> None:
    """Write what training changed as an adapter folder that PEFT reads as well.

    Args:
        model: after ``inject``, not merged.
        folder: made when missing.
        name: the adapter to save; where there is one only, that one.
        extra: more entries for ``visionlora.json``.
    """
    if is_merged(model):
        raise UserError("the adapter is merged into the weights; call unmerge before saving it.")
    known = adapter_names(model)
    if name == "default" and len(known) == 1:
        name = known[0]
    if known and name not in known:
        raise UserError(f"the model has no adapter {name!r} to save; it has {', '.join(known)}.{did_you_mean(name, known)}")
    with showing(model, name):
        _save(model, Path(folder), name, extra)


def _save(model: nn.Module, folder: Path, name: str, extra: Mapping[str, Any] | None) -> None:
    info = info_of(model)
    card = {
        "format_version": CARD_VERSION,
        "frozen_statistics": any(isinstance(module, FrozenStatistics) for module in model.modules()),
        "backbone": info.to_dict() if info else None,
        "quantized": "int8" if quantized(model) else None,
        "versions": {package: package_version(package) or "unknown" for package in ("visionlora", "torch", "torchvision", "timm")},
    }
    head = find_head(model)
    whole = (*head, *(info.remade if info else ()))
    # The head is saved even where it is frozen: it may be random, and then cannot be had again.
    state = {key: value for key, value in trained_state(model).items() if ".lora." not in key}
    own = model.state_dict()
    state |= {key: own[key] for key in own_keys(model, name)}  # trained before it was loaded
    norms = {module_name for module_name, module in model.named_modules() if is_norm(module) and f"{module_name}.weight" in state}
    whole = (*whole, *norms)  # running statistics too: PEFT asks for every entry of a module
    state |= {key: value for key, value in model.state_dict().items() if key.startswith(_prefixes(whole))}
    if info is None:
        card["base"] = base_card(model, state)
    files.write(model, folder, state, whole, card | dict(extra or {}), name)


def load_adapter(model: nn.Module, folder: str | Path, *, name: str = "default") -> nn.Module:
    """Read an adapter folder into ``model``, injecting its layers if they are not there yet, and make it the active one.

    Args:
        model: a backbone, plain or with other adapters; those stay, with their heads, see ``activate``.
        folder: a run's ``adapter/``, or one that PEFT wrote for a LoRA.
        name: for the adapter.

    Raises:
        UserError: not an adapter, damaged, or for another backbone, other weights of it or another number of classes; the model is
            then as it was. What PEFT wrote does not say which weights it is for, and is not checked for that.
    """
    read = AdapterFiles.read(folder)
    info = info_of(model)
    made_for = read.card.get("backbone")
    if info and made_for:
        other = read_info(made_for, folder)
        if other.spec.full_name != info.spec.full_name:
            raise UserError(f"{folder}: the adapter is for {other.spec.full_name}, this model is {info.spec.full_name}.")
        if other.fingerprint != info.fingerprint:
            raise UserError(
                f"{folder}: the adapter was trained on other weights of {info.spec.full_name}"
                f" (fingerprint {other.fingerprint[:12]}, the model's is {info.fingerprint[:12]})."
            )
        lacking = [
            key for key in model.state_dict() if key.startswith(_prefixes((*info.head, *info.remade))) and PREFIX + key not in read.tensors
        ]
        if lacking:
            raise UserError(f"{folder}: the file lacks {lacking[0]}, which was trained whole; it is incomplete.")
    elif made_for:  # of a model that create_backbone made, for one that it did not make
        other = read_info(made_for, folder)
        _check_base(model, {"fingerprint": other.fingerprint}, (*other.head, *other.remade, *other.resized), read)
    else:
        _check_base(model, read.card.get("base"), read.others, read)
    num_classes = other.spec.num_classes if info and made_for else None
    with torch.random.fork_rng(devices=[]), new_adapter(model, name, num_classes, read.others):  # the factors are replaced
        files.attach(model, read, find_head(model), info.remade if info else (), name)
    info = info_of(model)
    if info and made_for:
        info.classes, info.task, info.preprocessing = other.classes, other.task, other.preprocessing
        if read.card.get("frozen_statistics"):
            freeze_statistics(model, info.head)
    return model


def base_card(model: nn.Module, without: Iterable[str]) -> dict[str, str] | None:
    """The fingerprint of what is frozen in ``model``, the modules and keys named in ``without`` left out, and its type.

    ``None`` where there is none: all is trained, or the weights are quantised. It is made again only when a weight has changed.
    """
    without = sorted(without)
    state = {key: value for key, value in base_values(model).items() if not key.startswith(_prefixes(without)) and key not in without}
    if not state or quantized(model):
        return None
    versions = [without, [(key, value.data_ptr(), changes(value)) for key, value in state.items()]]
    known = attached(model).fingerprint
    if known is None or known[0] != versions:
        dtype = next((value.dtype for value in state.values() if value.is_floating_point()), None)
        known = attached(model).fingerprint = (versions, {"fingerprint": fingerprint(state), "dtype": str(dtype)})
    return dict(known[1])


def _check_base(model: nn.Module, expected: Any, without: Iterable[str], read: AdapterFiles) -> None:
    """See that the frozen weights are those that the adapter was trained on, where the card says so and the layers are there.

    Raises:
        UserError: they are not, or the card is damaged.
    """
    if expected is None or not (set(read.layers) <= set(slots(model)) and set(read.others) <= set(model.state_dict())):
        return
    if not isinstance(expected, dict) or not isinstance(expected.get("fingerprint"), str):
        raise UserError(f"{read.folder / CARD} is damaged: its base has no fingerprint.")
    found = base_card(model, without)
    if found is None or found["dtype"] != expected.get("dtype", "torch.float32"):
        warnings.warn(f"{read.folder}: in this type, it cannot be told whether the adapter is for these very weights.", stacklevel=3)
    elif found["fingerprint"] != expected["fingerprint"]:
        raise UserError(
            f"{read.folder}: the adapter was trained on other weights (fingerprint {expected['fingerprint'][:12]}, this model's is"
            f" {found['fingerprint'][:12]}); load the weights it was trained on into the model first."
        )


def read_info(values: Any, folder: str | Path) -> BackboneInfo:
    """What a card says of its backbone.

    Raises:
        UserError: the card is damaged.
    """
    try:
        return BackboneInfo.from_dict(values)
    except ValueError as error:
        raise UserError(f"{Path(folder) / CARD} is damaged: {error}.") from None


def _prefixes(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(module + "." for module in modules)

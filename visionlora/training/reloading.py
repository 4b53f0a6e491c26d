"""A checkpoint as a LightningModule again: its base is had by name, from the run folder it is in, or given."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from visionlora.backbone.create import rebuild
from visionlora.backbone.head import example_batch
from visionlora.backbone.info import info_of
from visionlora.common.errors import UserError
from visionlora.common.typed import as_type, typed
from visionlora.lora.adapter_files import AdapterFiles
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.model.adapters import adapter_names
from visionlora.model.inject import inject
from visionlora.model.layout import Layout, layout_of, make_ready, read_layout, written
from visionlora.model.saving import base_card, read_info, trained_state
from visionlora.runs.checkpoint_io import read_checkpoint
from visionlora.runs.config import OptimConfig
from visionlora.runs.folder import RunFolder
from visionlora.speed.quantize import quantize
from visionlora.tasks.registry import make_task
from visionlora.tasks.task import Task

CHECKPOINT_KEY = "visionlora"
"""The key of a checkpoint under which stands what we add to Lightning's own entries."""


class Reloadable(Protocol):
    """What a checkpoint is loaded into: a ``Checkpointed`` module."""

    def __init__(self, model: nn.Module, **arguments: Any) -> None: ...

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None: ...

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...


C = TypeVar("C", bound=Reloadable)


def card(model: nn.Module, task: Task, optim: OptimConfig, lora: LoraConfig, seed: int) -> dict[str, Any]:
    """What a checkpoint says: its base, how that was made ready, and the arguments of the module; plain values."""
    layout = layout_of(model)
    of_task = {"task": task.section(), "names": task.names, "num_classes": task.outputs}
    arguments = {**of_task, "optim": asdict(optim), "lora": asdict(lora), "seed": seed}
    return base_of(model, trained_state(model)) | {"layout": written(layout) if layout else None, "arguments": arguments}


def base_of(model: nn.Module, trained: Iterable[str]) -> dict[str, Any]:
    """What tells the base of ``model`` from others: a name, and the fingerprint of its weights where it can be taken.

    The fingerprint of a model that ``create_backbone`` did not make is that of all but the keys in ``trained``, in the type it has here.
    """
    if info := info_of(model):
        return {"backbone": info.spec.full_name, "fingerprint": info.fingerprint}
    found = base_card(model, [key for key in trained if ".lora." not in key]) or {}
    return {"backbone": type(model).__name__, "fingerprint": found.get("fingerprint"), "dtype": found.get("dtype")}


def check_base(model: nn.Module, made_on: Mapping[str, Any], trained: Iterable[str], where: str) -> None:
    """See that a checkpoint is of the base of ``model``.

    Args:
        model: plain, or as it is trained.
        made_on: what the checkpoint says.
        trained: keys of what the checkpoint holds.
        where: begins the sentence.

    Raises:
        UserError: it is of another base.
    """
    own = base_of(model, trained)
    unknown = own.get("dtype") != made_on.get("dtype") or not own["fingerprint"]  # the same weights in another type have another one
    for key in ("backbone",) if "dtype" in own and unknown else ("backbone", "fingerprint"):
        if made_on.get(key) != own[key]:
            raise UserError(f"{where} is for another base: its {key} is {made_on.get(key)}, this model's is {own[key]}.")


def reloaded(kind: type[C], path: Path, model: nn.Module | None, given: Mapping[str, Any]) -> C:
    """The module of a checkpoint, on the CPU.

    Args:
        kind: ``TaskModule`` or a subclass of it.
        path: the checkpoint, written by the command or by any Trainer.
        model: its base, plain or as it was trained; ``None`` makes it again.
        given: arguments that win over those of the checkpoint.

    Raises:
        UserError: not a checkpoint, damaged, of another base, or its base cannot be had.
    """
    checkpoint = read_checkpoint(path)
    says, state = checkpoint.get(CHECKPOINT_KEY), checkpoint.get("state_dict")
    if not isinstance(says, dict):
        raise UserError(f"{path} was not written by visionlora.")
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise UserError(f"{path} is damaged: its state_dict does not hold tensors by name.")
    layout = read_layout(says["layout"], str(path)) if says.get("layout") is not None else None
    if model is None:
        model = _made_again(path, layout)
    elif layout is not None:
        check_base(model, says, state, str(path))  # before anything is changed
        model = make_ready(model, layout, str(path))
    elif not adapter_names(model) and any(".lora." in key for key in state):
        raise UserError(f"{path} does not say which layers were adapted; give model= as it was trained, after vl.inject.")
    takes = inspect.signature(kind).parameters
    all_of_them = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    kept = checkpoint.get("hyper_parameters")  # of a subclass that calls save_hyperparameters
    known = (dict(kept) if isinstance(kept, Mapping) else {}) | _arguments(says.get("arguments"), path)
    if "num_classes" in given:  # what is given wins
        known.pop("task", None)
    module = kind(model, **{key: value for key, value in known.items() if key in takes or all_of_them} | dict(given))
    module.check_checkpoint(checkpoint, str(path))
    module.on_load_checkpoint(checkpoint)
    return module


def _made_again(path: Path, layout: Layout | None) -> nn.Module:
    run = RunFolder(path.absolute().parent.parent)
    run_there = path.absolute().parent.name == run.checkpoints.name and run.config.is_file()
    if layout is None:
        if not run_there or not run.adapter.is_dir():
            raise UserError(f"{path} does not say how its model is made; give it: load_from_checkpoint(path, model=…).")
        return _of_the_run(run)
    if layout.backbone is None:
        raise UserError(f"{path}: its base was not made by vl.create_backbone; give it: load_from_checkpoint(path, model=…).")
    base = run.read_base() if run_there else None
    if base is None and not layout.backbone.reproducible:
        raise UserError(
            f"{path}: the base weights of {layout.backbone.spec.full_name} were random or a local file, and no run folder around it keeps"
            " them; give the model: load_from_checkpoint(path, model=…)."
        )
    return make_ready(rebuild(layout.backbone, base), layout, str(path))


def _of_the_run(run: RunFolder) -> nn.Module:
    """The model of a run whose checkpoints do not say how it was made, as those of earlier versions: what the run folder says."""
    files = AdapterFiles.read(run.adapter)
    info = read_info(files.card.get("backbone"), run.adapter)
    config = run.read_plain_config()
    try:
        lora = typed(LoraConfig, config["lora"], "lora")
    except ValueError as error:
        raise UserError(f"{run.config} is damaged: {error}.") from None
    model = rebuild(info, run.read_base())
    if files.card.get("quantized"):
        quantize(model, info.head)
    ranks = {name: LayerRank(r, float(alpha), explicit=True) for name, (r, alpha) in (run.read_ranks() or {}).items() if name != "sha256"}
    inject(model, lora, example_batch(model), freeze_bn=bool(files.card.get("frozen_statistics")), ranks=ranks or None)
    return model


def _arguments(values: Any, path: Path) -> dict[str, Any]:
    """The arguments of the module that a checkpoint holds; none of an earlier version's."""
    if values is None:
        return {}
    try:
        if not isinstance(values, dict):
            raise ValueError("its arguments are not a mapping")
        optim, lora = typed(OptimConfig, values.get("optim"), "optim"), typed(LoraConfig, values.get("lora"), "lora")
        num_classes, seed = values.get("num_classes"), values.get("seed")
        if not isinstance(num_classes, int) or not isinstance(seed, int) or not 0 < num_classes <= 10**6:
            raise ValueError("num_classes or seed is no whole number, or out of range")
        names = as_type(list[str], values.get("names", [str(number) for number in range(num_classes)]), "names")
        if len(names) != num_classes:
            raise ValueError("it has another number of names than of outputs")
        section = as_type(dict[str, Any], values.get("task", {}), "task")
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    try:
        task = make_task(section, names)
    except UserError as error:
        raise UserError(f"{path}: {error} A package that brings it may not be installed.") from None
    return {"task": task, "optim": optim, "lora": lora, "num_classes": num_classes, "seed": seed}

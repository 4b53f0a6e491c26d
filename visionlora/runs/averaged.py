"""Several adapters of one backbone averaged to one: in their weights (a soup)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionlora.backbone.info import BackboneInfo
from visionlora.common.errors import UserError
from visionlora.common.reading import read_json
from visionlora.lora.adapter_files import CARD, CONFIG, PREFIX, AdapterFiles
from visionlora.lora.averaged import MeanUpdate, mean_updates, refuse_other_than_sums
from visionlora.lora.files import write_files
from visionlora.lora.peft_format import peft_config, peft_key
from visionlora.model.saving import read_info
from visionlora.runs.folder import RunFolder
from visionlora.tasks.registry import kind_of

RUNNING = ("running_mean", "running_var")
"""What batch-norm knows of the images that it has seen."""


@dataclass(frozen=True)
class Averaged:
    """An adapter that was averaged of several.

    Args:
        folder: where it is.
        weights: one an adapter, in sum 1.
        ranks: layer -> rank of the mean update.
        lost: layer -> ``‖ΔW − kept‖ / ‖ΔW‖``, what was cut off; 0 where nothing was.
        lost_in_all: the same of all layers together.
        statistics: batch-norm statistics that had moved in training were averaged too; those of the averaged weights are others.
    """

    folder: Path
    weights: tuple[float, ...]
    ranks: Mapping[str, int]
    lost: Mapping[str, float]
    lost_in_all: float
    statistics: bool


def average(
    paths: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    overwrite: bool = False,
) -> Averaged:
    """Write one adapter whose update is the mean of several updates (a soup, Wortsman et al. 2022, arXiv 2203.05482).

    Averaged are the updates ``ΔW`` themselves, not their factors one by one, and everything that was trained whole, such as the head. Both
    visionlora and PEFT read what is written.

    Args:
        paths: run folders or adapter folders, of one backbone and one task.
        out: the adapter folder to write; made when missing.
        weights: one for each path, none below 0; they are divided by their sum. ``None`` weighs all alike.
        rank: to cut the mean update of each layer back to, by its singular values. ``None`` cuts nothing off: the rank is then the sum of
            the ranks.
        overwrite: replace an adapter that is there.

    Returns:
        What was written, and what cutting back has lost.

    Raises:
        UserError: an adapter cannot be read, is of another backbone or task than the first or no plain sum with the weight (DoRA); or there
            is an adapter at ``out``. Nothing is written then.
    """
    shares = _shares(weights, len(paths))
    if rank is not None and rank < 1:
        raise UserError(f"rank={rank} must be at least 1.")
    folder = Path(out)
    if not overwrite and (folder / CARD).exists():
        raise UserError(f"{folder} holds an adapter already; name another folder, or set overwrite=true to replace it.")
    files = [AdapterFiles.read(adapter_folder(path)) for path in paths]
    for other in files[1:]:
        _check_alike(files[0], other)
    refuse_other_than_sums(files)
    updates, whole = mean_updates(files, shares, rank), _mean_of_whole(files, shares)
    config = _config(files[0], updates)
    layers = {layer: {"r": update.r, "alpha": float(update.r)} for layer, update in updates.items()}
    beyond = {layer: why for read in files for layer, why in (read.card.get("beyond_peft") or {}).items()}
    about = {"averaged": {"of": [Path(path).name for path in paths], "weights": shares}}
    left_out = ("metrics", "sha256")  # of the first one alone
    card = {key: value for key, value in files[0].card.items() if key not in left_out} | about | {"layers": layers, "beyond_peft": beyond}
    if all(read.card.get("backbone") for read in files):
        card["backbone"] |= {"task": mean_section([read.card["backbone"].get("task") or {} for read in files])}
    tensors = whole | {peft_key(layer, key): value for layer, update in updates.items() for key, value in update.tensors().items()}
    write_files(folder, tensors, config, card)
    norm, lost = (math.hypot(*(getattr(update, key) for update in updates.values())) for key in ("norm", "lost"))
    return Averaged(
        folder,
        tuple(shares),
        {layer: update.r for layer, update in updates.items()},
        {layer: update.lost / max(update.norm, 1e-300) for layer, update in updates.items()},
        lost / max(norm, 1e-300),
        any(key.endswith(RUNNING) for key in whole) and not files[0].card.get("frozen_statistics", False),
    )


def adapter_folder(path: str | Path) -> Path:
    """The adapter folder of a run folder; an adapter folder is its own."""
    folder = RunFolder(path).adapter
    return folder if folder.is_dir() else Path(path)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if not count:
        raise UserError("there is no adapter to average; name run folders or adapter folders.")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise UserError(f"{len(given)} weights for {count} adapters; give one for each.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not sum(given) > 0:
        raise UserError(f"weights={given} must be numbers of which none is below 0 and one is above.")
    return [weight / sum(given) for weight in given]


def _check_alike(first: AdapterFiles, other: AdapterFiles) -> None:
    """See that two adapters are for the same weights and the same outputs, as far as their cards say what for.

    Raises:
        UserError: they are not.
    """
    pair = f"{other.folder} and {first.folder}"
    if first.card.get("quantized") != other.card.get("quantized"):
        raise UserError(f"{pair} were trained on a base of different precision (model.quantize); they cannot be averaged.")
    bases = [read.card.get("base") for read in (first, other)]
    if all(isinstance(base, dict) for base in bases) and bases[0] != bases[1]:
        raise UserError(f"{pair} were trained on different weights; they cannot be averaged.")
    if not (first.card.get("backbone") and other.card.get("backbone")):
        return  # what PEFT wrote does not say
    one, two = (read_info(read.card["backbone"], read.folder) for read in (first, other))
    if one.spec.full_name != two.spec.full_name or one.fingerprint != two.fingerprint:
        raise UserError(
            f"{pair} are on different backbones ({one.spec.full_name}, fingerprint {one.fingerprint[:12]}; {two.spec.full_name},"
            f" {two.fingerprint[:12]}); they cannot be averaged."
        )
    if not same_outputs(one, two):
        raise UserError(f"{pair} have different outputs (task, classes or their order); they cannot be averaged.")
    if one.preprocessing != two.preprocessing:
        raise UserError(f"{pair} prepare their images in different ways (data.image_size, data.crop_scale); they cannot be averaged.")


def same_outputs(one: BackboneInfo, two: BackboneInfo) -> bool:
    """Whether two models have the same outputs, for the same task; what each has chosen after its training may differ."""
    settled = kind_of(one.task).settled
    sections = [{key: value for key, value in info.task.items() if key not in settled} for info in (one, two)]
    return one.classes == two.classes and sections[0] == sections[1]


def mean_section(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The section ``task`` of an average: what each of ``sections`` has chosen after its training is averaged, all else is the same."""
    chosen = [key for key in kind_of(sections[0]).settled if all(section.get(key) is not None for section in sections)]
    return {**sections[0], **{key: np.mean([section[key] for section in sections], axis=0).tolist() for key in chosen}}


def _mean_of_whole(files: Sequence[AdapterFiles], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted means of the tensors that are saved whole, by PEFT's keys; of counters, those of the first file."""
    found, first = {}, files[0].others
    raw = {_plain(key): key for read in files for key in sorted(read.tensors, key=len)}  # the longer key: with base_layer where adapted
    for read in files[1:]:
        for key in sorted(set(first) ^ set(read.others)):
            raise UserError(f"{read.folder} and {files[0].folder} were not trained in the same parts: {key} is in one of them only.")
    for key, value in first.items():
        others = [read.others[key] for read in files]
        if any(other.shape != value.shape or other.is_floating_point() != value.is_floating_point() for other in others):
            raise UserError(f"{key} has another shape or type in one of the adapters than in {files[0].folder}; they cannot be averaged.")
        if value.is_floating_point():
            terms = [weight * other.double() for weight, other in zip(weights, others, strict=True)]
            value = torch.stack(terms).sum(0).to(value.dtype)
        found[raw[PREFIX + key]] = value
    return found


def _plain(key: str) -> str:
    return key.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _config(first: AdapterFiles, updates: Mapping[str, MeanUpdate]) -> dict[str, Any] | None:
    if not updates:
        return None
    own = read_json(first.folder / CONFIG) if (first.folder / CONFIG).is_file() else {}
    whole = own.get("modules_to_save") or []
    ranks = {layer: update.r for layer, update in updates.items()}
    config = peft_config(ranks, {layer: float(r) for layer, r in ranks.items()}, whole, own.get("bias") or "none")
    return config | {key: own.get(key) for key in ("base_model_name_or_path", "task_type")}

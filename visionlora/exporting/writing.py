"""The one way to export: check every format, write each, read it back and compare, and only then put all of them in their places."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.files import library_writing, naming
from visionlora.common.text import in_a_line
from visionlora.exporting.card import card
from visionlora.exporting.facts import CARD, PREPROCESSING, Facts, preprocessing_json
from visionlora.exporting.formats import FORMATS, require
from visionlora.exporting.places import in_the_way, put_in_place, workplace
from visionlora.model.inject import merge
from visionlora.runs.folder import RunFolder
from visionlora.speed.quantize import dequantize

TOLERANCE = 1e-4
"""Largest difference of a logit that is rounding, relative to the largest logit."""


class Exported(NamedTuple):
    """What was written: its folder, bytes, and the largest difference of the logits, relative to the largest logit."""

    format: str
    folder: Path
    bytes: int
    difference: float
    pictures: str


class Compared(NamedTuple):
    """What an export has to agree with: prepared images ``(N, C, H, W)``, the model's logits for them, and what the images are."""

    images: Tensor
    logits: Tensor
    what: str


def check_places(formats: Sequence[str], folder: Path, overwrite: bool) -> None:
    """See what can be seen without a model: the packages are installed, and nothing is in the way of any format.

    Raises:
        UserError: a package is missing, or a file or an export is in the way.
    """
    for name in formats:
        require(FORMATS[name].packages, f"format={name}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file where a folder has to be; move it away, or choose another output folder.")
    for name in formats:
        if sentence := in_the_way(folder / name, overwrite):
            raise UserError(sentence)


def write(
    model: nn.Module, facts: Facts, formats: Sequence[str], folder: Path, compared: Compared, run: RunFolder | None
) -> list[Exported]:
    """Merge ``model`` in place, write it in each format, and read each back by its own runtime; all are put in place, or none.

    Args:
        model: float32 on the CPU, in eval mode; nobody else's, because it is merged.
        facts: of the model.
        formats: of ``FORMATS``, each once; ``check_places`` has seen them.
        folder: gets one folder a format.
        compared: what an export has to give back.
        run: that the model comes from, for the card; ``None`` for one from elsewhere.

    Raises:
        UserError: a format cannot hold the model, or what was read back disagrees.
    """
    for name in formats:
        FORMATS[name].refuse(facts)
    merge(model, keep=False)
    dequantize(model)
    with workplace(folder) as place, torch.no_grad():
        (before := place / "before").mkdir()
        (whole := place / "whole").mkdir()
        differences = []
        for name in formats:
            (part := whole / name).mkdir()
            differences.append(_written(model, facts, name, part, compared, folder))
            with naming(folder):
                _add_words(part, facts, name, run)
        folders = put_in_place([whole / name for name in formats], folder, before)
    sizes = [sum(path.stat().st_size for path in one.iterdir()) for one in folders]
    return [Exported(*row, compared.what) for row in zip(formats, folders, sizes, differences, strict=True)]


def _written(model: nn.Module, facts: Facts, name: str, part: Path, compared: Compared, folder: Path) -> float:
    """Write one format into ``part``, below ``folder``, which errors of the disk name; returns how far off it is, read back."""
    format_ = FORMATS[name]
    try:
        with library_writing(folder):
            own = copy.deepcopy(model)  # tracing may leave something in it
            format_.write(own, facts, part)
            logits = format_.read(part, facts, own)(compared.images)
    except (OSError, UserError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever they meet in a model that they cannot take
        if disk_trouble(error):
            raise
        instead = "" if format_.any_module else " Formats onnx and pt2 ask for nothing but the model itself."
        raise UserError(f"format={name} cannot hold this {facts.name}, nothing was written: {in_a_line(error)}{instead}") from error
    logits, wanted = facts.task.same_rows(logits, compared.logits, facts.num_classes)
    difference = float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)) if logits.shape == wanted.shape else torch.inf
    if not difference <= TOLERANCE:
        raise UserError(
            f"format={name}: what was read back differs from the model by {difference:.1e} of the largest logit, more than"
            f" {TOLERANCE:.0e}; nothing was written. Please report it with the model's name."
        )
    return difference


def _add_words(part: Path, facts: Facts, name: str, run: RunFolder | None) -> None:
    """Preprocessing and card beside what a library has written, and permissions as of any new file."""
    (part / PREPROCESSING).write_text(preprocessing_json(facts), encoding="utf-8")
    (part / CARD).write_text(card(facts, name, FORMATS[name].how(facts), run), encoding="utf-8")
    usual = (part / CARD).stat().st_mode
    for path in part.iterdir():  # safetensors writes files that nobody else may read, a server for one
        path.chmod(usual)

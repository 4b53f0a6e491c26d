"""From a run folder to an export that was read back and agreed."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from visionlora.adapting import merge
from visionlora.backbone.quantize import dequantize
from visionlora.common.finite import refuse_not_finite
from visionlora.common.process_state import process_as_before
from visionlora.data.module import ImageData
from visionlora.data.opening import UnreadableError
from visionlora.data.transforms import normalize
from visionlora.errors import UserError
from visionlora.exporting.card import card
from visionlora.exporting.formats import FORMATS, PREPROCESSING, preprocessing
from visionlora.files import inside, library_writing
from visionlora.predictor import Predictor, load
from visionlora.run_folder import RunFolder
from visionlora.runs.data import data_config

TOLERANCE = 1e-4
"""Largest difference of a logit that is rounding, relative to the largest logit."""
PICTURES = 16
"""Pictures that an export is compared on."""


class Exported(NamedTuple):
    """What was written: its folder, bytes, and the largest difference of the logits, relative to the largest logit."""

    format: str
    folder: Path
    bytes: int
    difference: float
    pictures: str


@process_as_before()
def export(run: RunFolder, formats: Sequence[str], output: Path | None, overwrite: bool = False) -> list[Exported]:
    """Write a merged copy of the run's model in each format, read it back by its own runtime, and compare.

    Args:
        run: a finished run; it is not touched.
        formats: of ``FORMATS``.
        output: folder that gets one folder a format; ``None`` for ``export/`` in the run folder.
        overwrite: replace a folder that is there.

    Raises:
        UserError: a folder is there, a package is missing, a format cannot hold the model, or what was read back disagrees.
    """
    folder = output or run.path / "export"
    if folder.is_file():
        raise UserError(f"output={folder} is a file; name a folder.")
    for name in formats:
        inside(run.path if output is None else output, *([folder.name] if output is None else []), name)
        if (folder / name).exists() and not overwrite:
            raise UserError(f"{folder / name} is there already; overwrite=true replaces it, output=DIR writes elsewhere.")
    reference = load(run.path)
    images, what = pictures(run, reference)
    wanted = reference.model(images)
    refuse_not_finite([("the output", wanted)], str(run.path))
    return [_one(run, name, folder / name, images, wanted, what) for name in formats]


def pictures(run: RunFolder, predictor: Predictor, number: int = PICTURES) -> tuple[Tensor, str]:
    """Prepared pictures of the run's test part, ``(N, C, H, W)``, and what they are; noise where the data is gone.

    Raises:
        UserError: what the run says of its data is damaged.
    """
    prepared, record = predictor.preprocessing, run.read_split()
    run.read_section("data")  # damage is an error, pictures that are elsewhere are none
    try:
        data = ImageData(data_config(run), record=record)
        part = data.parts.get("test", data.parts["train"])
        chosen = range(0, len(part), max(len(part) // number, 1))
        opened = []
        for i in list(chosen)[:number]:
            with contextlib.suppress(UnreadableError):
                opened.append(predictor.prepare(part.open(i, prepared.channels)))
        if not opened:
            raise UserError("none of the pictures can be read")
        batch = torch.stack(opened)
        what = f"{len(batch)} pictures of the run's data"
    except UserError:
        shape = (number, prepared.channels, prepared.image_size, prepared.image_size)
        batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        what = f"{number} pictures of noise (the run's data is not there)"
    return normalize(batch, prepared), what


def _exchange(folder: Path, part: Path, before: Path) -> None:
    """Put ``part`` in the place of ``folder``; what was there becomes ``before``, and is put back when that fails."""
    if folder.exists():
        folder.rename(before)
    try:
        part.rename(folder)
    except BaseException:
        if before.exists():
            before.rename(folder)
        raise


@torch.no_grad()
def _one(run: RunFolder, name: str, folder: Path, images: Tensor, wanted: Tensor, what: str) -> Exported:
    format_ = FORMATS[name]
    model, info = (merged := load(run.path)).model, merged.info
    merge(model, keep=False)
    dequantize(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as place, library_writing(folder.parent):
        part = Path(place) / name
        part.mkdir()
        format_.write(model, info, images[:2], part)
        logits = format_.read(part, info)(images)
        difference = float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not difference <= TOLERANCE:
            raise UserError(
                f"format={name}: what was read back differs from the run by {difference:.1e} of the largest logit, more than"
                f" {TOLERANCE:.0e}; nothing was written. Please report it with the model's name."
            )
        (part / PREPROCESSING).write_text(json.dumps(preprocessing(info), indent=2))
        (part / "README.md").write_text(card(run, info, name, format_.how(info)))
        usual = (part / "README.md").stat().st_mode
        for path in part.iterdir():  # safetensors writes files that nobody else may read, a server for one
            path.chmod(usual)
        _exchange(folder, part, Path(place) / "before")
    return Exported(name, folder, sum(path.stat().st_size for path in folder.iterdir()), difference, what)

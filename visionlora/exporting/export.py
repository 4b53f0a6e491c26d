"""From a run folder to an export that was read back and agreed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.files import inside
from visionlora.common.finite import refuse_not_finite
from visionlora.common.process_state import process_as_before
from visionlora.data.module import ImageData
from visionlora.data.transforms import normalize
from visionlora.exporting.facts import Facts
from visionlora.exporting.writing import Compared, Exported, check_places, write
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder
from visionlora.runs.predictor import Predictor, load

PICTURES = 16
"""Images that an export is compared on."""


@process_as_before()
def export(run: RunFolder, formats: Sequence[str], output: Path | None, overwrite: bool = False) -> list[Exported]:
    """Write a merged copy of the run's model in each format, read it back by its own runtime, and compare: all are written, or none.

    Args:
        run: a finished run; it is not touched.
        formats: of ``FORMATS``, each once.
        output: folder that gets one folder a format; ``None`` for ``export/`` in the run folder.
        overwrite: replace a folder that is there.

    Raises:
        UserError: a folder is there, a package is missing, a format cannot hold the model, or what was read back disagrees.
    """
    folder = output or run.path / "export"
    inside(run.path if output is None else folder.parent, folder.name)
    check_places(formats, folder, overwrite)
    predictor = load(run.path)
    images, what = pictures(run, predictor)
    with torch.no_grad():
        logits = predictor.model(images)
    refuse_not_finite([("the output", logits)], str(run.path))
    return write(predictor.model, Facts.of_run(predictor.info), formats, folder, Compared(images, logits, what), run)


def pictures(run: RunFolder, predictor: Predictor, number: int = PICTURES) -> tuple[Tensor, str]:
    """Prepared images of the run's test part, ``(N, C, H, W)``, and what they are; noise where the data is gone.

    Raises:
        UserError: what the run says of its data is damaged.
    """
    prepared, record = predictor.preprocessing, run.read_split()
    run.read_section("data")  # damage is an error, images that are elsewhere are none
    try:
        data = ImageData(data_config(run), record=record, task=predictor.task.section())
        part = data.parts.get("test", data.parts["train"])
        chosen = range(0, len(part), max(len(part) // number, 1))
        opened = []
        for i in list(chosen)[:number]:
            with contextlib.suppress(UnreadableError):
                opened.append(predictor.prepare(part.open(i, prepared.channels)))
        if not opened:
            raise UserError("none of the images can be read")
        batch = torch.stack(opened)
        what = f"{len(batch)} images of the run's data"
    except UserError as error:
        shape = (number, prepared.channels, prepared.image_size, prepared.image_size)
        batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        what = f"{number} images of noise, as the run's data cannot be had: {str(error).rstrip('.')}"
    return normalize(batch, prepared), what

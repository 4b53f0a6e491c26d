"""``bad_files.csv``: the images that a run could not read and left out; too many of them end it."""

from __future__ import annotations

import csv
import io
import sys
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from visionlora.common.errors import UserError
from visionlora.common.files import inside, replace_file
from visionlora.common.processes import process_rank
from visionlora.data.images import left_out
from visionlora.data.module import ImageData
from visionlora.runs.folder import RunFolder

COLUMNS = ("file", "reason")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class BadFiles(Callback):
    """Brings together what each process could not read, writes it down, and ends the run where it is too much.

    Processes meet for that at the end of epochs and of measurements. A single one also looks after every batch.

    Args:
        run: where ``bad_files.csv`` goes.
        data: notes what it cannot read.
        most: share of all images that may be left out.
    """

    def __init__(self, run: RunFolder, data: ImageData, most: float) -> None:
        self.run, self.data, self.most = run, data, most
        self.total = sum(map(len, data.names.values()))
        self._written = 0

    def recall(self) -> None:
        """Try again what the run could not read before it was interrupted: a resumed run tells of that too, unless it has been mended."""
        known = _read(self.run)
        self._written = -1 if known else 0  # what has been mended since goes from the list
        for pictures in self.data.parts.values():
            again = [index for index, name in enumerate(pictures.names) if name in known] if not pictures.in_memory else []
            self.data.try_again(pictures.subset(again))

    def look(self) -> None:
        """End the run if too much is unreadable.

        Raises:
            UserError: more than ``data.max_bad`` of all images, or a whole part, cannot be read.
        """
        found = self.data.unreadable
        gone = [part for part in self.data.names if not self.data.readable(part).labels]
        if len(found) <= self.most * self.total and not gone:
            return
        self._write()
        why = f"none of the {gone[0]} part is left" if gone else f"data.max_bad={self.most:g} allows {int(self.most * self.total)}"
        cure = "Mend or remove them" + ("" if gone else ", or set data.max_bad higher to go on without them")
        raise UserError(
            f"{len(found)} of {self.total} images cannot be read, and {why}: {left_out(found)}. All are in {self.run.bad_files}. {cure}."
        )

    def settle(self) -> None:
        """Bring together what all processes have found, write it down, and ``look``; every process calls this at the same time."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everybodys: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everybodys, self.data.unreadable)
            for found in everybodys:
                self.data.unreadable.update(found)
        first = self._written <= 0
        self.look()
        self._write()
        if first and self._written > 0 and not process_rank():
            said = f"{self._written} of {self.total} images cannot be read and are left out; {self.run.bad_files} names them."
            print(said, file=sys.stderr)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.world_size == 1 and len(self.data.unreadable) > self.most * self.total:
            self.look()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settle()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settle()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settle()

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settle()

    def _write(self) -> None:
        found = self.data.unreadable
        if len(found) == self._written or process_rank():
            return
        self.run.mark()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(name), _cell(found[name])] for name in sorted(found))
        replace_file(inside(self.run.path, self.run.bad_files.name), text.getvalue().encode("utf-8", errors="surrogateescape"))
        self._written = len(found)


def _read(run: RunFolder) -> set[str]:
    """The files that an earlier part of the run could not read."""
    try:
        text = run.bad_files.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return set()
    names = {row.get("file") or "" for row in csv.DictReader(io.StringIO(text))}
    return names | {name[1:] for name in names if name.startswith("'")}


def _cell(text: str) -> str:
    """The cell as text: spreadsheets take a cell that begins with one of these signs for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text

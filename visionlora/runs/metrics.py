"""``metrics.csv``: added to while a run goes on, and at no moment without what it held."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from visionlora.common.console import LOG
from visionlora.common.files import inside, naming, replace_file
from visionlora.common.processes import process_rank
from visionlora.runs.folder import RunFolder
from visionlora.runs.log import HASH, digest, put_aside_if_damaged, read_rows
from visionlora.tasks.words import in_words, label

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
Row = dict[str, Any]


class RunLogger(CSVLogger):
    """``metrics.csv`` in the run folder; a resumed run keeps the rows before the step it goes on from.

    Args:
        run: the folder.
        resumed: the checkpoint that the run goes on from, or ``None`` for a new run.
    """

    def __init__(self, run: RunFolder, resumed: Mapping[str, Any] | None = None) -> None:
        super().__init__(run.path, name="", version="", flush_logs_every_n_steps=10)
        self.run = run
        self.resumed_step = resumed_step = None if resumed is None else int(resumed["global_step"])
        self._known = None if resumed is None else resumed.get(HASH)
        if not process_rank():
            rows = [] if resumed_step is None else [row for row in read_rows(run.metrics)[0] if row["step"] < resumed_step]
            self._experiment: Any = MetricsFile(run, rows)

    def put_aside_if_damaged(self) -> None:
        """See to the log that a resumed run found, before anything is written."""
        if self.resumed_step is not None and not process_rank():
            put_aside_if_damaged(self.run, self.resumed_step, self._known)

    def digest(self, step: int) -> str:
        """``log.digest`` of what has been logged."""
        return digest(self._experiment.rows, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml has them."""


class MetricsFile:
    """Takes the place of Lightning's writer, which empties the file before it writes it anew with another column.

    Nothing is written before there is something to write.
    """

    def __init__(self, run: RunFolder, rows: Sequence[Row]) -> None:
        self.run, self.metrics = run, list(rows)
        self._columns: list[str] = []
        self._written: list[Row] = []
        self._epoch: Row = {}  # what the validation of this epoch found
        self._appendable = False  # the file holds what has been written, and nothing else

    @property
    def rows(self) -> list[Row]:
        """All rows, written or not."""
        return [*self._written, *self.metrics]

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Take in a row."""
        row = {key: getattr(value, "item", lambda value=value: value)() for key, value in metrics.items()}
        self.metrics.append(row | {"step": step})
        self._epoch |= {key: value for key, value in row.items() if key.startswith("val/")}
        if "train/loss" in row:  # the last thing logged in an epoch; the measurements after the training are told by other means
            told = {"train/loss": row["train/loss"], **self._epoch}
            words = ", ".join(f"{label(key)} {in_words(key, value)}" for key, value in told.items())
            LOG.info("epoch %d, step %d: %s", row["epoch"] + 1, step + 1, words)
            self._epoch = {}

    def save(self) -> None:
        """Write what has been taken in since."""
        if not self.metrics:
            return
        path = inside(self.run.path, self.run.metrics.name)
        columns = sorted({*self._columns, *(key for row in self.metrics for key in row)})
        appendable, self._appendable = self._appendable and columns == self._columns, False  # a full disk may take a part of a row
        if appendable:
            with naming(path), open(os.open(path, _APPEND, 0o666), "wb") as file:
                file.write(_text(self.metrics, columns, heading=False))
        else:  # also at first: a resumed run drops what came after its checkpoint
            replace_file(path, _text(self.rows, columns, heading=True))
        self._columns, self._appendable = columns, True
        self._written += self.metrics
        self.metrics = []


def _text(rows: Sequence[Row], columns: list[str], heading: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    if heading:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()

"""``metrics.csv`` on a disk that is full for a while."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from visionlora.runs.folder import RunFolder
from visionlora.runs.log import read_rows
from visionlora.runs.metrics import MetricsFile


def test_a_row_of_which_a_part_was_written_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appending once more would glue the row to its own beginning."""
    run = RunFolder(tmp_path)
    file = MetricsFile(run, [])
    file.log_metrics({"loss": 0.5, "epoch": 0}, 1)
    file.save()
    really_open = os.open

    def full(path: Any, *arguments: Any) -> int:
        with Path(path).open("a") as cut:
            cut.write("0.2")
        return really_open("/dev/full", os.O_WRONLY)

    file.log_metrics({"loss": 0.25, "epoch": 0}, 2)
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match=r"metrics\.csv"):
        file.save()
    monkeypatch.undo()
    file.save()
    file.log_metrics({"loss": 0.125, "epoch": 0}, 3)
    file.save()
    rows, damaged = read_rows(run.metrics)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, "0.5"), (2, "0.25"), (3, "0.125")]
    assert not damaged

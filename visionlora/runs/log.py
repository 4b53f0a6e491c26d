"""``metrics.csv`` as read: a log, which stops neither a run nor a report. Free of torch."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.reading import read_bytes
from visionlora.runs.folder import RunFolder

Curves = dict[str, tuple[list[float], list[float]]]
HASH = "metrics.csv"
"""Key of ``results.json`` that holds the hash of the log of a finished run, and of a checkpoint that holds ``digest``."""


def read_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows that have been written whole, numbers as text, and whether the file is damaged.

    A last line that was cut off is no damage: the process was killed while it wrote. A file that is not there has no rows.
    """
    if not path.exists():
        return [], False
    try:
        lines = read_bytes(path).decode().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        found = list(csv.DictReader(whole))
    except (UserError, ValueError, csv.Error):
        return [], True
    rows = [_row(row) for row in found]
    kept = [row for row in rows if row]
    return kept, len(kept) < len(rows) or not whole


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Without what is empty; nothing for a row that is not as it was written."""
    kept = {key: value for key, value in row.items() if value}
    if None in row or None in row.values() or not kept.get("step", "").isdecimal() or not kept.get("epoch", "").isdecimal():
        return {}
    return kept | {"step": int(kept["step"])} if all(map(_is_number, kept.values())) else {}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) < 40


def digest(rows: Iterable[Mapping[str, Any]], step: int) -> str:
    """sha256 of the rows before a step, numbers or their text: what a checkpoint of this step holds of the log."""
    before = [sorted((key, str(value)) for key, value in row.items() if value not in (None, "")) for row in rows if row["step"] < step]
    return hashlib.sha256(json.dumps(before).encode()).hexdigest()


def put_aside_if_damaged(run: RunFolder, step: int, known: str | None) -> None:
    """Give a damaged log another name, and say so: the rows that can be read go on in a new one.

    Args:
        run: about to go on.
        step: number of optimizer steps that it goes on from.
        known: ``digest`` of the rows before that step; ``None`` from a checkpoint of an earlier version.
    """
    if run.metrics.is_symlink():  # which the run refuses
        return
    rows, damaged = read_rows(run.metrics)
    if not damaged and (digest(rows, step) == known if known is not None else rows or not run.metrics.exists()):
        return
    if not run.metrics.exists():
        print(f"{run.metrics} is missing: it begins anew.", file=sys.stderr)
        return
    aside = run.metrics.with_name(f"{run.metrics.name}.damaged")
    try:
        os.replace(run.metrics, aside)
    except OSError as error:
        raise UserError(f"{run.metrics} is damaged and cannot be put aside as {aside.name} ({error.strerror}); move it away.") from None
    print(f"{run.metrics} is damaged: put aside as {aside.name}; the rows that can be read go on in a new one.", file=sys.stderr)


def hash_of(path: Path) -> str | None:
    """sha256 of a log, or ``None`` where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def read_curves(path: Path) -> Curves:
    """Metric -> (epochs, values); epochs count finished ones, steps inside an epoch are fractions."""
    rows = read_rows(path)[0]
    ends = [(int(row["epoch"]), row["step"]) for row in rows if row.get("train/loss")]
    if not ends:
        return {}
    epoch, last = ends[-1]
    curves: Curves = defaultdict(lambda: ([], []))
    for row in rows:
        if row["step"] <= last:  # what follows is the evaluation of the checkpoint chosen
            for key, value in row.items():
                if key not in ("epoch", "step") and math.isfinite(float(value)):
                    curves[key][0].append((row["step"] + 1) * (epoch + 1) / (last + 1))
                    curves[key][1].append(float(value))
    return dict(curves)


def curves_of_finished(folder: Path, results: Mapping[str, Any]) -> Curves:
    """The curves of a finished run; none where the log is not the one that its results tell of, which is said."""
    path = folder / HASH
    known = results.get(HASH)
    try:
        damaged = hash_of(path) != known if known is not None else read_rows(path)[1]
    except OSError:
        damaged = True
    if damaged:
        print(f"{path} is damaged or missing: the report is without this run's curves.", file=sys.stderr)
        return {}
    return read_curves(path)

"""Every run as a row: path, config and figures, with a column for each key."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from visionlora.errors import UserError
from visionlora.reporting.runs import Run, is_number, shown


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All with the same keys; what a run does not have is ``None``."""
    found = [{"path": str(run.path), **run.config, **run.results} for run in runs]
    keys = dict.fromkeys(key for row in found for key in row)
    return [{key: row.get(key) for key in keys} for row in found]


def to_csv(runs: Sequence[Run]) -> bytes:
    """With a heading."""
    table = rows(runs)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in table)
    return text.getvalue().encode()


def to_parquet(runs: Sequence[Run]) -> bytes:
    """Numbers as numbers; a column of several kinds as text."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError('Parquet is written by pyarrow; install it with: pip install "visionlora[report]"') from None
    table = rows(runs)
    columns = {key: pa.array(_of_one_kind([row[key] for row in table])) for key in table[0]}
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _of_one_kind(values: list[Any]) -> list[Any]:
    if not all(value is None or is_number(value) for value in values):
        return [None if value is None else shown(value) for value in values]
    whole = not any(isinstance(value, float) for value in values)
    return values if whole else [None if value is None else float(value) for value in values]

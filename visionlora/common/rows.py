"""Rows of plain values as CSV, JSON lines or Parquet, by the file's suffix."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from visionlora.common.errors import UserError
from visionlora.common.files import replace_file
from visionlora.common.text import cell

Rows = Sequence[dict[str, Any]]


def write_rows(path: Path, rows: Rows) -> None:
    """Write the file whole or not at all.

    Raises:
        UserError: no such suffix is known, or the package for it is missing.
    """
    replace_file(path, writer_for(path)(rows))


def writer_for(path: Path) -> Callable[[Rows], bytes]:
    """What makes the bytes of a file of this name.

    Raises:
        UserError: no such suffix is known.
    """
    if path.suffix not in WRITERS:
        raise UserError(f"output={path}: the name ends in {path.suffix or 'nothing'}; {', '.join(WRITERS)} are known.")
    if path.suffix == ".parquet":
        _pyarrow()
    return WRITERS[path.suffix]


def to_csv(rows: Rows) -> bytes:
    """With a heading; what a row does not have is empty. A text that a spreadsheet would take for a formula has a ``'`` before it."""
    text, keys = io.StringIO(), _keys(rows)
    for line in (map(cell, keys), *([_csv_cell(row.get(key)) for key in keys] for row in rows)):
        cells = list(line)
        returns = any("\r" in one for one in cells if isinstance(one, str))  # which a reader takes for the end of a line
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue().encode(errors="surrogateescape")  # names of files that are not UTF-8


def _csv_cell(value: Any) -> Any:
    return "" if value is None else cell(value) if isinstance(value, str) else value


def to_json_lines(rows: Rows) -> bytes:
    """A JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="surrogateescape")


def to_parquet(rows: Rows) -> bytes:
    """Numbers as numbers; a column of several kinds as text."""
    pa, parquet = _pyarrow()
    columns = {key: pa.array(_of_one_kind([row.get(key) for row in rows])) for key in _keys(rows)}
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {".csv": to_csv, ".jsonl": to_json_lines, ".parquet": to_parquet}


def shown(value: Any) -> str:
    """A value as on the command line; what Hydra would take apart in quotes."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if re.fullmatch(r"[\w./:@%+-]*", text, re.ASCII) else "'" + text.replace("'", "\\'") + "'"


def is_number(value: Any) -> TypeGuard[int | float]:
    """A number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pyarrow() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError('Parquet is written by pyarrow; install it with: pip install "visionlora[report]"') from None
    return pyarrow, parquet


def _keys(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _of_one_kind(values: list[Any]) -> list[Any]:
    if not all(value is None or is_number(value) for value in values):
        texts = [value if value is None or isinstance(value, str) else shown(value) for value in values]
        return [None if text is None else text.encode(errors="backslashreplace").decode() for text in texts]
    whole = not any(isinstance(value, float) or abs(value or 0) >= 2**63 for value in values)
    return values if whole else [None if value is None else float(value) for value in values]

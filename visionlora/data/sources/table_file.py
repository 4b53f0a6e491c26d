"""The rows of a table in a file: CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError

_DECIMAL = re.compile(r"[-+]?\d+,\d+")
ENDINGS = {".csv": ",", ".tsv": "\t"}


def rows_of(file: Path) -> Iterator[list[str]]:
    """The cells of each row, the headings first.

    A CSV file whose headings have semicolons and no comma is separated by these, as a spreadsheet writes it where the comma is in numbers;
    in a cell that is such a number it becomes a point.

    Raises:
        UserError: the file is of another kind, or cannot be read.
    """
    ending = file.suffix.lower()
    if ending == ".parquet":
        yield from _of_parquet(file)
        return
    if ending not in ENDINGS:
        raise UserError(f"data.root={file}: a table is a .csv, .tsv or .parquet file.")
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            if ending == ".csv" and ";" in first and "," not in first:
                for row in csv.reader(stream, delimiter=";"):
                    yield [cell.replace(",", ".") if _DECIMAL.fullmatch(cell.strip()) else cell for cell in row]
            else:
                yield from csv.reader(stream, delimiter=ENDINGS[ending])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as {ending[1:].upper()}: {error}.") from None


def _of_parquet(file: Path) -> Iterator[list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow: pip install pyarrow; or write the table as CSV.") from None
    try:
        opened = parquet.ParquetFile(file)
        yield list(opened.schema_arrow.names)
        for batch in opened.iter_batches():
            columns = [batch.column(place).to_pylist() for place in range(batch.num_columns)]
            for values in zip(*columns, strict=True):
                yield [_text(value) for value in values]
    except pyarrow.ArrowException as error:
        raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}.") from None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    return "" if value is None else str(value)

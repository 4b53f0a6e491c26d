"""``findings.csv``: what a check has found of each image, which ``data.exclude`` takes back. Free of torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from visionlora.common.errors import UserError

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one image.

    Args:
        image: its name, a path below the folder or the table.
        part: of the data.
        label: in words.
        finding: unreadable, extension, small, blank, duplicate, near duplicate, in two parts, label.
        why: in words, such as the image that it is a copy of.
        exclude: ``yes`` where ``data.exclude`` leaves it out; a user may change it.
    """

    image: str
    part: str
    label: str
    finding: str
    why: str
    exclude: str = NO


def as_csv(findings: Iterable[Finding]) -> str:
    """The text of the file."""
    stream = io.StringIO()
    rows = csv.DictWriter(stream, [field.name for field in fields(Finding)])
    rows.writeheader()
    rows.writerows(map(asdict, findings))
    return stream.getvalue()


def excluded(file: Path) -> set[str]:
    """Names of the images that ``findings.csv`` leaves out: those whose cell ``exclude`` is yes; without such a column, all that it lists.

    Raises:
        UserError: it is not there, or has no column ``image``.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if "image" not in (rows.fieldnames or ()):
                raise UserError(f"data.exclude={file}: it has no column 'image'; findings.csv of visionlora.check has one.")
            return {row["image"] for row in rows if (row.get("exclude") or YES).strip().lower() == YES}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.exclude={file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None

"""What is wrong with what images show: blank ones, copies, near copies, and copies in two parts; found by cleanvision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionlora.data.findings import NO, YES, Finding

BLANK = {"low_information": "nothing is to be seen", "dark": "it is all dark", "light": "it is all white"}
COPIES = {"exact_duplicates": "duplicate", "near_duplicates": "near duplicate"}
ORDER = ("test", "val", "train")
"""Of copies in several parts, that of the first of these stays."""


@dataclass(frozen=True)
class Looked:
    """A readable image that lies in a file."""

    path: str
    name: str
    part: str
    label: str


def wrong_looks(images: Sequence[Looked]) -> list[Finding]:
    """Blank images, and copies beside the one that stays: the first by part (test, val, train) and name."""
    from cleanvision import Imagelab

    if not images:
        return []
    with contextlib.redirect_stderr(io.StringIO()):  # its bars, which it draws whatever it is told
        lab = Imagelab(filepaths=[image.path for image in images], verbose=False)
        lab.find_issues({kind: {} for kind in (*BLANK, *COPIES)}, n_jobs=1, verbose=False)
    known = {image.path: image for image in images}
    found = _blank(lab.issues, known)
    told: set[str] = set()
    for kind, finding in COPIES.items():
        for paths in lab.info[kind]["sets"]:
            copies = sorted((known[path] for path in paths), key=lambda image: (ORDER.index(image.part), image.name))
            first = copies[0]
            for copy in copies[1:]:
                if copy.name not in told:
                    told.add(copy.name)
                    found.append(_copy(copy, first, finding))
    return found


def _blank(issues: Any, known: Mapping[str, Looked]) -> list[Finding]:
    found: list[Finding] = []
    for kind, why in BLANK.items():
        for path in issues.index[issues[f"is_{kind}_issue"]]:
            image = known[path]
            if not any(finding.image == image.name for finding in found):
                found.append(Finding(image.name, image.part, image.label, "blank", why, YES if kind == "low_information" else NO))
    return found


def _copy(copy: Looked, first: Looked, finding: str) -> Finding:
    exact = finding == "duplicate"
    what = "the same image as" if exact else "nearly the same as"
    labels = "" if copy.label == first.label else f", whose label is {first.label!r}"
    where = finding if copy.part == first.part else "in two parts"
    return Finding(copy.name, copy.part, copy.label, where, f"{what} {first.name} ({first.part}){labels}", YES if exact else NO)

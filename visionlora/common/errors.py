"""The one exception type for a user's mistake: its message is the whole explanation, no traceback is shown for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: what is wrong, which file or key, what to do. Commands print it and exit with 2."""


class UnreadableError(UserError):
    """An image cannot be read, and will not be at the next try either: it may be left out; ``why`` is the reason alone."""

    def __init__(self, why: str, path: Path | None = None) -> None:
        super().__init__(why if path is None else f"cannot read the image {path}: {why}; mend or remove the file.")
        self.why = why


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names that look most like ``word``, whatever their case; the nearest first."""
    by_lower = {name.lower(): name for name in reversed(list(known))}
    found = difflib.get_close_matches(word.lower(), by_lower, n=count, cutoff=0.6)
    found = found or [name for name in by_lower if len(word) > 2 and word.lower() in name][:count]
    likeness = {name: difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in found}
    return [by_lower[name] for name in found if likeness[name] > likeness[found[0]] - 0.1]


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the names nearest to ``word``, or ``""`` when none is near."""
    found = nearest(word, known, count)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""

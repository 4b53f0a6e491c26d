"""The one exception type for a user's mistake: its message is the whole explanation, no traceback is shown for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: what is wrong, which file or key, what to do. Commands print it and exit with 2."""


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the names nearest to ``word``, or ``""`` when none is near."""
    near = difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""

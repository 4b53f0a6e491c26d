"""Text of strangers (names of classes, files, models), made harmless where it is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEPT = "\n\t\u200c\u200d"
"""Line breaks, and what is invisible but part of how Persian, Hindi and many emoji are written."""
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

NAMED = 20
"""Names, of classes or numbers, in a sentence about a model."""


def printable(text: str) -> str:
    r"""``text`` with what a terminal would obey, hide or turn round written out, as ``\x1b``; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in _KEPT else c.encode("unicode_escape", errors="surrogatepass").decode("ascii") for c in text)


def cell(text: str) -> str:
    """``text`` as a cell of a CSV file that no spreadsheet takes for a formula: with ``'`` before it where it would (OWASP's advice).

    Numbers stay as they are.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def markdown(text: str) -> str:
    """A name inside a line of Markdown: no link, no markup, no second line."""
    return re.sub(r"([\\`*\[\]<>|#&])", r"\\\1", printable(text).replace("\n", " "))


def not_there(names: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """``"2 images that are not there: a, b"``, for a sentence about the file that names them."""
    return f"{counted(len(names), 'image')} that {'is' if len(names) == 1 else 'are'} not there: {first_of(names, most, between)}"


def counted(number: int, one: str, many: str = "") -> str:
    """``"1 image"``, ``"1,200 images"``; ``many`` is for a plural that does not end in a mere s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def first_of(names: Sequence[str], most: int, between: str = ", ") -> str:
    """``"a, b and 3 more"``: the first ``most`` of ``names``, and how many there are beside them."""
    shown = between.join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def in_brackets(names: Sequence[str], between: str = ", ") -> str:
    """``" (a, b and 3 more)"`` for a line of Markdown; nothing where there are no names."""
    return f" ({first_of([*map(markdown, names)], NAMED, between)})" if names else ""


def in_a_line(error: BaseException, most: int = 300) -> str:
    """What an error of a library says, in one line without colours, of at most ``most`` characters; its type where it says nothing."""
    words = " ".join(_COLOUR.sub("", str(error)).split()) or type(error).__name__
    return words if len(words) <= most else f"{words[:most]}…"

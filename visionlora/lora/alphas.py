r"""Whose alpha is another than ``lora_alpha``: the keys of ``alpha_pattern`` in PEFT's config are regular expressions.

PEFT matches them with ``re.match(rf"(.*\.)?({pattern})$", layer)``, and a stranger's pattern may keep that busy for years. Names, which
is what PEFT and this library write, are looked up; other patterns are counted before they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST_WAYS = 2.0**20
"""The number of ways in which all patterns together may be laid over a name at most."""
_LONGEST = 256
"""The longest name of a layer that patterns are tried on, in characters; no layer of a real model has one as long."""
_NAME = re.compile(r"(\^?)((?:[\w.-]|\\[.\-_])+)\$?")
_TOKEN = re.compile(
    r"(?P<group>\((?:\?:|(?!\?)))|(?P<end>\))|(?P<bar>\|)|(?P<repeat>[*+?]\??|\{(?P<least>\d{1,3})(?P<most>,\d{0,3})?\}\??)"
    r"|(?P<atom>\\[dDwWsSbB.\-_^$*+?()\[\]{}|/\\]|\[\^?\]?[^\]\[\\]*\]|[^\\()\[\]{}*+?|])"
)


class Alphas:
    """The alpha of each layer.

    Args:
        patterns: ``alpha_pattern``; the first that matches counts.
        default: ``lora_alpha``.

    Raises:
        ValueError: a pattern is not a regular expression, or one that could take for ever.
    """

    def __init__(self, patterns: Mapping[str, float], default: float) -> None:
        self._default = default
        self._wholes: dict[str, tuple[int, float]] = {}
        self._ends: dict[str, tuple[int, float]] = {}
        self._patterns: list[tuple[int, re.Pattern[str], float]] = []
        ways = 0.0
        for number, (pattern, alpha) in enumerate(patterns.items()):
            if named := _NAME.fullmatch(pattern):
                names = self._wholes if named[1] else self._ends
                names.setdefault(re.sub(r"\\(.)", r"\1", named[2]), (number, alpha))
            else:
                ways += _ways(pattern)
                if ways > MOST_WAYS:
                    raise ValueError(f"{pattern[:80]!r} could take for ever")
                self._patterns.append((number, _compiled(pattern), alpha))

    def of(self, layer: str) -> float:
        """The alpha of a layer, by its name."""
        starts = [0, *(place + 1 for place, character in enumerate(layer) if character == ".")]
        found = [self._ends[end] for end in (layer[start:] for start in starts) if end in self._ends]
        if layer in self._wholes:
            found.append(self._wholes[layer])
        for number, pattern, alpha in self._patterns if len(layer) <= _LONGEST else ():
            if any(pattern.fullmatch(layer, start) for start in starts):  # ``^`` is the beginning of the name, not that of the part
                found.append((number, alpha))
        return min(found)[1] if found else self._default


def _ways(pattern: str) -> float:
    """In how many ways a pattern may be laid over a name at most; repeated groups are refused."""
    ways, bars, place, group_ended = 1.0, [0], 0, False
    while place < len(pattern):
        if not (token := _TOKEN.match(pattern, place)):
            raise ValueError(f"{pattern[:80]!r} holds {pattern[place : place + 8]!r}, which is not read from a file")
        if token["group"]:
            bars.append(0)
        elif token["end"] and len(bars) > 1:
            ways *= bars.pop() + 1
        elif token["bar"]:
            bars[-1] += 1
        elif token["repeat"]:
            if group_ended:
                raise ValueError(f"{pattern[:80]!r} repeats a group, which could take for ever")
            ways *= _repeats(token)
        group_ended, place = bool(token["end"]), token.end()
    return ways * (bars[0] + 1)


def _repeats(repeat: re.Match[str]) -> float:
    if repeat["least"] is None:
        return 2.0 if repeat["repeat"][0] == "?" else 64.0
    most = repeat["most"]
    if most is None:
        return 1.0
    return 64.0 if most == "," else abs(int(most[1:]) - int(repeat["least"])) + 1.0


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        if len(pattern) > 1024:
            raise ValueError("it is longer than any name")
        return re.compile(pattern)
    except (ValueError, re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern[:80]!r} is not a regular expression ({error})") from None

"""Values from a file against the types of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from visionlora.common.typed import typed


@dataclass
class Inner:
    n: int
    x: float = 1.0


@dataclass
class Outer:
    inner: Inner
    name: str | None = None
    words: list[str] = field(default_factory=list)
    pair: tuple[float, ...] = ()
    on: bool = False
    by: dict[str, float] = field(default_factory=dict)
    anything: Any = None


def test_what_fits() -> None:
    given = {"inner": {"n": 3, "x": 2}, "name": "a", "words": ["b"], "pair": [1, 2.5], "on": True, "by": {"c": 1}, "anything": [{}]}
    assert typed(Outer, given) == Outer(Inner(3, 2.0), "a", ["b"], (1.0, 2.5), True, {"c": 1.0}, [{}])
    assert typed(Outer, {"inner": {"n": 1}, "more": 1}, more=True) == Outer(Inner(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": 3}, "inner is not a mapping"),
        ({"inner": {}}, "inner.n is missing"),
        ({"inner": {"n": 1, "m": 1}}, "inner.m is unknown"),
        ({"inner": {"n": True}}, "inner.n is True, where a whole number belongs"),
        ({"inner": {"n": 1.5}}, "inner.n is 1.5, where a whole number belongs"),
        ({"inner": {"n": 10**400}}, "inner.n is a huge number"),
        ({"inner": {"n": 1, "x": float("nan")}}, "inner.x is nan, where a number belongs"),
        ({"inner": {"n": 1, "x": 10**400}}, "inner.x is a huge number"),
        ({"name": 3}, "name is 3, where a text or null belongs"),
        ({"name": "x" * 5000}, "name is "),
        ({"words": "abc"}, "words is 'abc', where a list belongs"),
        ({"words": ["a", None]}, r"words\[1\] is None"),
        ({"pair": {"a": 1}}, "pair is a dict, where a list belongs"),
        ({"on": "yes"}, "on is 'yes', where true or false belongs"),
        ({"by": {"c": "d"}}, "by.c is 'd'"),
        ([], "it is not a mapping"),
        ({"other": 1}, "other is unknown"),
    ],
)
def test_what_does_not(change: Any, message: str) -> None:
    given = {"inner": {"n": 1}} | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match=message):
        typed(Outer, given)

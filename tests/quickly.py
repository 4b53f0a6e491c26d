"""A few cases of a table in every run of the tests, the others where there is time for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quickly(
    cases: Iterable[Any], kept: int | Collection[Any], others: pytest.MarkDecorator = pytest.mark.slow, names: int = 1
) -> list[Any]:
    """``cases`` for ``pytest.mark.parametrize``, of which those that are not ``kept`` have the mark ``others``.

    Args:
        cases: a value each, or a tuple of values for several names.
        kept: how many of the first are in every run; or which ones, where the table is not written down but found.
        others: ``slow``, or ``faults`` for kills and full disks.
        names: how many names a case has values for.

    Raises:
        ValueError: a case that is to be kept is not there; it would be lost from every run without a word.
    """
    cases = list(cases)
    if isinstance(kept, int):
        kept = cases[:kept]
    elif missing := [case for case in kept if case not in cases]:
        raise ValueError(f"no such cases: {missing}")
    return [pytest.param(*(case if names > 1 else (case,)), marks=() if case in kept else others) for case in cases]

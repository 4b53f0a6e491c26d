"""The first cases of a table in every run of the tests, the others where there is time for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quickly(cases: Iterable[Any], count: int, others: pytest.MarkDecorator = pytest.mark.slow, names: int = 1) -> list[Any]:
    """``cases`` for ``pytest.mark.parametrize``, of which those beyond the first ``count`` have the mark ``others``.

    Args:
        cases: a value each, or a tuple of values for several names.
        count: how many are in every run.
        others: ``slow``, or ``faults`` for kills and full disks.
        names: how many names a case has values for.
    """
    found = []
    for number, case in enumerate(cases):
        found.append(pytest.param(*(case if names > 1 else (case,)), marks=() if number < count else others))
    return found

"""Thousands of damaged image files: each is an image or a sentence, soon, and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.mutating import MUTATIONS, Fate, damaged, fates

from visionlora.data.opening import MOST_PIXELS

Recorder = Callable[[str, object], None]
TRIES, QUICK_TRIES = 6000, 180
MIB = 200 + 12 * MOST_PIXELS / 2**20
"""Of an image that is just small enough: four bytes a pixel in Pillow, a copy in the colours asked for, one byte in the decoder or so."""
READ = ("same", "other", "unreadable")


def wrong(fate: Fate) -> bool:
    """Whether a damage that can be seen was not.

    PNG has checksums, and of a file that is cut short a part is missing. Elsewhere nothing tells a changed bit from an image of something
    else; and what is missing of a progressive JPEG, or of a WebP or GIF whose end mark is there, are details or later frames.
    """
    seen = (
        fate.name.startswith("png")
        or fate.mutation == "cut"
        or (fate.mutation == "cut, its end kept" and fate.name in ("jpeg", "bmp", "tiff"))
    )
    return seen and fate.outcome == "other"


@pytest.mark.faults
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_damaged_files(mutation: str, tmp_path: Path, record_property: Recorder) -> None:
    found, peak = _all_fates(tmp_path)
    those = [fate for fate in found if fate.mutation == mutation]
    bad = [fate for fate in those if fate.outcome not in READ or wrong(fate)]
    record_property("kind", f"damaged images: {mutation}")
    record_property("tries", len(those))
    record_property("held", len(those) - len(bad))
    print(mutation, Counter(fate.outcome for fate in those), f"peak {peak:.0f} MiB")
    assert not bad
    assert peak < MIB


_made: list[tuple[list[Fate], float]] = []


def _all_fates(folder: Path) -> tuple[list[Fate], float]:
    if not _made:
        _made.append(fates(range(TRIES), folder))
    return _made[0]


def test_some_damaged_files(tmp_path: Path) -> None:
    found, peak = fates(range(10**6, 10**6 + QUICK_TRIES), tmp_path)
    assert len(found) == QUICK_TRIES
    assert {fate.mutation for fate in found} == set(MUTATIONS)
    assert not [fate for fate in found if fate.outcome not in READ or wrong(fate)]
    assert {"same", "unreadable"} <= {fate.outcome for fate in found}
    assert peak < MIB


def test_what_is_damaged_is_the_same_each_time() -> None:
    assert [damaged(number) for number in range(40)] == [damaged(number) for number in range(40)]

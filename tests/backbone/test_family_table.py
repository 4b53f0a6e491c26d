"""The table of families says what it was measured with, and is out of date when that has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import families

STALE = "**The sources have changed since it was measured; it is to be measured again.**"
"""What the page says from a change until the next measurement, which takes half an hour."""
ROOT = Path(__file__).parents[2]


def test_the_table_is_of_these_very_sources() -> None:
    """Slow to measure again, so only what it was measured with is compared."""
    known = json.loads(families.RESULTS.read_text())
    ours = {key: cell for key, cell in known["cells"].items() if key.endswith(" visionlora")}
    now, again = (
        families.fingerprint(),
        "run `make test-families` (minutes) and commit docs/families.md and benchmarks/results/families.json",
    )
    assert set(ours) == {f"{name} visionlora" for name in known["families"].values()}
    old = [key for key, cell in ours.items() if cell.get("measured_with") != now]
    text = families.TABLE.read_text()
    if STALE in text:  # the page says so itself
        assert old, "it was measured with the sources of now: take the sentence away"
        return
    assert not old, f"visionlora/lora or visionlora/backbone have changed since {len(old)} of {len(ours)} families were measured: {again}"
    assert not [key for key, cell in ours.items() if cell["failed"]]
    assert text.endswith(families.table(known)), f"docs/families.md is not what the results say: {again}"
    assert now in text


@pytest.mark.slow
def test_every_family(tmp_path: Path) -> None:
    """Every family through the commands, and all checks of the table, on what the sources are now."""
    call = [
        sys.executable,
        "benchmarks/families.py",
        "--afresh",
        "--results",
        str(tmp_path / "results.json"),
        "--out",
        str(tmp_path / "table.md"),
    ]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=None)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_no_geometry_of_theirs_breaks_the_cpu_library() -> None:
    done = subprocess.run([sys.executable, "benchmarks/cpu_kernels.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

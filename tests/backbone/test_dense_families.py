"""The table of models for boxes and masks says what it was measured with, and is out of date when that has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from backbone.test_family_table import STALE

from benchmarks import dense_families
from benchmarks.families import ROOT, fingerprint

AGAIN = "run `make test-dense-families` and commit docs/dense_families.md and benchmarks/results/dense_families.json"


def test_the_table_is_of_these_very_sources() -> None:
    """Slow to measure again, so only what it was measured with is compared."""
    known = json.loads(dense_families.RESULTS.read_text())
    keys, now = [cell.key for cell in dense_families.cells()], fingerprint(dense_families.SOURCES, but=None)
    assert len({*keys}) == len(keys)
    old = [key for key in keys if known["cells"].get(key, {}).get("measured_with") != now]
    text = dense_families.TABLE.read_text()
    if STALE in text:  # the page says so itself
        assert old, "it was measured with the sources of now: take the sentence away"
        return
    assert not old, f"the sources have changed since {len(old)} of {len(keys)} models were measured: {AGAIN}"
    assert not [key for key in keys if dense_families.outcome(known["cells"][key]) == "fails"]
    ends = {key: dense_families.outcome(known["cells"][key]) for key in keys}
    own = [end for key, end in ends.items() if " torchvision/" in key]
    assert own == ["passes"] * len(own)
    assert sum(end == "passes" for key, end in ends.items() if key.startswith("segment timm/")) >= 20
    assert text == dense_families.INTRO + dense_families.table(known), f"docs/dense_families.md is not what the results say: {AGAIN}"


@pytest.mark.slow
def test_a_handful(tmp_path: Path) -> None:
    """Through the commands, and all checks of the table, on what the sources are now."""
    chosen = ["timm/resnet", "timm/dla", "timm/hrnet", "timm/vision_transformer", "torchvision/lraspp_mobilenet_v3_large"]
    chosen += [f"torchvision/{name}" for name in ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")]
    files = ["--results", str(tmp_path / "results.json"), "--out", str(tmp_path / "table.md")]
    call = [sys.executable, "benchmarks/dense_families.py", "--only", *chosen, *files]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (tmp_path / "table.md").read_text().count("| passes") == 11

"""One process at a time in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionlora.common.errors import UserError
from visionlora.runs.claim import claimed
from visionlora.runs.folder import RunFolder


def test_a_folder_is_claimed_once_at_a_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        with claimed(run):
            run.path.rename(tmp_path / "moved")  # the claim is the folder's, whatever its name
            moved = RunFolder(tmp_path / "moved")
            with pytest.raises(UserError, match="another process is at work here"), claimed(moved):
                pass
            assert moved.lock.exists()
            moved.path.rename(run.path)
    assert not list(run.path.iterdir())  # no run began

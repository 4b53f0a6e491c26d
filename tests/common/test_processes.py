"""Processes end with the one that has started them, also when it is gone before they look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import command

from visionlora.common.processes import STARTED_BY, TERMINATED


def test_a_process_whose_starter_is_gone_does_not_begin(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {STARTED_BY: str(gone.pid), "LOCAL_RANK": "1"}
    done = command("train", f"hydra.run.dir={tmp_path / 'run'}", env=environment, timeout=60)
    assert done.returncode == TERMINATED
    assert not done.stdout
    assert not done.stderr
    assert not (tmp_path / "run").exists()

"""Jobs that SLURM runs again: a stand-in for ``scontrol`` notes what it is asked and ends the job, as SLURM does."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faults.killing import COMMON, Killed, differences, slurm_job

CALL = (*COMMON, "data.num_images=400")


@pytest.mark.faults
def test_a_job_that_slurm_runs_again_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    slurm = slurm_job(tmp_path)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert Killed([*CALL, f"hydra.run.dir={whole}"], whole).wait() == 0
    call = [*CALL, f"hydra.run.dir={folder}"]
    first = Killed(call, folder, env=slurm)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert first.signal_after(0, signal.SIGUSR1), first.stderr
    assert first.wait() != 0
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert "Traceback" not in first.stderr
    assert not list(folder.glob("hpc_ckpt*"))
    again = Killed(call, folder, env=slurm | {"SLURM_RESTART_COUNT": "1"})
    assert again.wait() == 0, again.stderr
    assert not differences(folder, whole)
    finished = Killed(call, folder, env=slurm | {"SLURM_RESTART_COUNT": "2"})
    assert finished.wait() == 0, finished.stderr

"""A run that was killed after an epoch and went on is the uninterrupted run, bit for bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.killing import CASES, PICTURES, Case, Killed, differences, go_on
from quickly import quickly

WORKERS = {
    "2 workers": CASES["folders, workers 2"],
    "default workers, validation": CASES["folders, default workers"],
    "no validation, accumulation": Case(
        (*PICTURES, "data.num_workers=2", "data.val_fraction=0", "trainer.accumulate_grad_batches=2"), True
    ),
    "validation within epochs": Case((*PICTURES, "data.num_workers=1", "trainer.val_check_interval=2"), True),
    "validation every second epoch": Case((*PICTURES, "data.num_workers=1", "trainer.check_val_every_n_epoch=2"), True),
}


@pytest.mark.parametrize("name", quickly(WORKERS, 1, pytest.mark.faults))
def test_killed_after_an_epoch_with_worker_processes(name: str, class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders(train={"cat": 60, "dog": 60}, test={"cat": 8, "dog": 8})
    call = WORKERS[name].command_line(tmp_path / "whole", root)
    assert Killed(call, tmp_path / "whole").wait() == 0
    folder = tmp_path / "run"
    call = WORKERS[name].command_line(folder, root)
    run = Killed(call, folder)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.signal_after(0, signal.SIGKILL), run.stderr
    run.wait()
    assert not (folder / "results.json").exists()
    said = go_on(call, folder)
    assert not differences(folder, tmp_path / "whole"), said

"""Two starts in one folder, and what is left of a parallel sweep whose own process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, QUIET, TINY, command
from faults.fixtures import Reference
from faults.killing import CASES, Case, Killed, differences, session

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]


@pytest.mark.parametrize("number", range(20))
def test_two_starts(
    number: int, folder: Path, tmp_path: Path, root: Path, reference: Callable[[Case], Reference], record_property: Recorder
) -> None:
    """At the same moment or within a second: one of them runs to the end of the uninterrupted run, the other is told."""
    record_property("kind", "two starts in one folder")
    case = CASES["memory"]
    whole = reference(case)
    call = case.command_line(folder, root)
    runs = []
    for i in range(2):
        runs.append(Killed(call, folder, notes=tmp_path / f"notes{i}"))
        time.sleep(random.Random(number).uniform(0, 1) if number % 4 else 0)
    done = sorted((run.done() for run in runs), key=lambda each: each.returncode)
    assert [each.returncode for each in done] == [0, 2], [each.stderr for each in done]
    assert any(words in done[1].stderr for words in ("another process is at work here", "holds a run already")), done[1].stderr
    assert len(done[1].stderr.splitlines()) == 1, done[1].stderr
    assert not done[0].stderr
    assert not differences(folder, whole.folder)


@pytest.mark.parametrize("number", range(10))
def test_a_parallel_sweep_that_is_killed(number: int, tmp_path: Path, record_property: Recorder) -> None:
    """Nothing that it has started is alive three seconds later, and the same command goes on."""
    record_property("kind", "a parallel sweep killed")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    words = ["-m", *TINY, *QUIET, "trainer=cpu", "trainer.max_epochs=1", "data.num_workers=1", "lora.r=1,2,4", *parallel]
    call = [sys.executable, "-m", "visionlora.train", *words]
    with (tmp_path / "streams").open("wb") as streams:
        process = subprocess.Popen(call, stdout=streams, stderr=streams, start_new_session=True, env=os.environ | QUICK)
    begun = time.monotonic()
    if number % 2:  # while they start, or once a run is under way
        while not list(tmp_path.glob("sweep/*/config.yaml")) and time.monotonic() - begun < 120 and process.poll() is None:
            time.sleep(0.05)
    time.sleep(random.Random(number).uniform(0, 5))
    assert process.poll() is None, (tmp_path / "streams").read_text()
    os.kill(process.pid, signal.SIGTERM if number % 3 == 0 else signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 3
    while (alive := session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    named = [Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ") for each in alive if Path(f"/proc/{each}").exists()]
    assert not named
    again = command("train", *words, fresh=True)
    assert again.returncode == 0, again.stderr

"""Kill a run at any moment and at every change of its folder: having gone on, it ends as the uninterrupted one, bit for bit."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, command
from faults.fixtures import Reference
from faults.killing import CASES, TWO_PROCESSES, Case, Killed, differences, go_on, slurm_job

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]

MOMENTS = 108
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
TRIES = [(number, list(CASES)[number % len(CASES)], SIGNALS[number // len(CASES) % len(SIGNALS)]) for number in range(MOMENTS)]


@pytest.mark.parametrize(("number", "name", "by"), TRIES, ids=[f"{n}-{name}-{by.name}" for n, name, by in TRIES])
def test_killed_at_a_moment(
    number: int, name: str, by: signal.Signals, root: Path, folder: Path, reference: Callable[[Case], Reference], record_property: Recorder
) -> None:
    record_property("kind", f"killed at a moment by {by.name}")
    _killed_twice(CASES[name], number, by, root, folder, reference(CASES[name]))


@pytest.mark.parametrize("number", range(18))
def test_requeued_at_a_moment(
    number: int, root: Path, folder: Path, tmp_path: Path, reference: Callable[[Case], Reference], record_property: Recorder
) -> None:
    """A job that SLURM warns by SIGUSR1, and runs again in the same words."""
    case = CASES[list(CASES)[number % len(CASES)]]
    record_property("kind", "requeued at a moment by SLURM")
    whole, call, job = reference(case), case.command_line(folder, root), slurm_job(tmp_path)
    run = Killed(call, folder, env=job)
    run.signal_after(random.Random(number).uniform(0.02, 1) * whole.seconds, signal.SIGUSR1)
    run.wait()
    assert "Traceback" not in run.stderr, run.stderr
    assert not run.left_alive()
    again = Killed(call, folder, env=job | {"SLURM_RESTART_COUNT": "1"})
    assert again.wait() == 0, again.stderr
    assert not differences(folder, whole.folder), again.stderr


@pytest.mark.parametrize("number", range(4))
def test_two_processes_killed_at_a_moment(
    number: int, root: Path, folder: Path, reference: Callable[[Case], Reference], record_property: Recorder
) -> None:
    record_property("kind", "two processes killed at a moment")
    _killed_twice(TWO_PROCESSES, number, SIGNALS[number], root, folder, reference(TWO_PROCESSES))


def _killed_twice(case: Case, number: int, by: signal.Signals, root: Path, folder: Path, whole: Reference) -> None:
    """Killed at a random moment, and half of the time once more where it went on."""
    draw, call = random.Random(number), case.command_line(folder, root)
    run = Killed(call, folder)
    hit = run.signal_after(draw.uniform(0.02, 1) * whole.seconds, by)
    code = run.wait()
    assert not run.left_alive()
    if hit and by in (signal.SIGINT, signal.SIGTERM) and code != 0:
        assert "Traceback" not in run.stderr, run.stderr
    if number % 2 and (folder / "checkpoints" / "last.ckpt").exists() and not (folder / "results.json").exists():
        again = Killed(["ckpt_path=last", f"hydra.run.dir={folder}", *QUIET], folder)
        again.signal_after(draw.uniform(0.02, 1) * whole.seconds, by)
        again.wait()
    said = go_on(call, folder)
    assert not differences(folder, whole.folder), said


@pytest.mark.parametrize("name", ["memory", "folders, workers 2", "adalora"])
def test_killed_at_every_change(
    name: str, root: Path, folder: Path, reference: Callable[[Case], Reference], record_property: Recorder
) -> None:
    """Whatever the run does to its folder, each step is once the last one it does."""
    whole, case = reference(CASES[name]), CASES[name]
    failed = []
    for at, change in enumerate(whole.changes):
        run = Killed(case.command_line(folder, root), folder, at)
        run.wait()
        try:
            said = go_on(case.command_line(folder, root), folder)
            failed += [f"before {change}: {difference}; {said}" for difference in differences(folder, whole.folder)[:1]]
        except AssertionError as error:
            failed.append(f"before {change}: {error}")
        shutil.rmtree(folder)
    record_property("kind", f"killed at every change of the folder ({name})")
    record_property("tries", len(whole.changes))
    record_property("held", len(whole.changes) - len(failed))
    assert not failed, "\n".join(failed)


def test_what_is_compared_can_differ(root: Path, folder: Path, reference: Callable[[Case], Reference]) -> None:
    """Another seed is another run, in the eyes of the comparison."""
    case = CASES["memory"]
    done = command("train", *case.command_line(folder, root), "seed=1")
    assert done.returncode == 0, done.stderr
    found = " ".join(differences(folder, reference(case).folder))
    for part in ("results.json: test/loss", "metrics.csv", "adapter_model.safetensors", "last.ckpt: .state_dict", "last.ckpt: .optimizer"):
        assert part in found

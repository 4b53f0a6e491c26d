"""``visionlora.plan``: what a run will take, as it then does, and nothing left behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, command, compose, results
from quickly import quickly

from visionlora import UserError
from visionlora.planning import beginnings, measure
from visionlora.training.run import run

LONG = (*TINY, *QUIET, "trainer=cpu", "data.num_images=600", "data.image_size=32", "data.batch_size=16", "trainer.max_epochs=4")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, also those of processes that are started."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


KINDS = {
    "lora": (),
    "probe, cached on disk": ("lora=none", "data.cache=disk", "data.hflip=0"),
    "accumulated": ("trainer.accumulate_grad_batches=3",),
}


@pytest.mark.parametrize("kind", quickly(KINDS, 1))
def test_what_is_planned_is_what_happens(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts to the last one, disk nearly so; time only roughly, as other tests run beside this one."""
    for name, value in (("SECONDS", 0.1), ("LONGEST", 0.2), ("EVALUATION_SECONDS", 0.0)):
        monkeypatch.setattr(beginnings, name, value)
    config = compose(*LONG, *KINDS[kind])
    plan = measure.abridged_run(config, tmp_path / "plan")
    was = run(config, tmp_path / "run")
    for key in ("params/trainable", "params/total"):
        assert plan.figures[key] == was[key]
    steps = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert (plan.figures["epochs"], plan.figures["batches"], plan.figures["steps"]) == (4, 34, steps)
    abridged = torch.load(tmp_path / "plan" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert abridged < steps
    assert size_of(tmp_path / "run") == pytest.approx(plan.bytes["folder"], rel=0.05)
    assert was["seconds/fit"] / 3 < plan.seconds["fit"] < was["seconds/fit"] * 3
    assert plan.seconds["fit"] < plan.seconds["total"]
    assert (plan.bytes["cache"] > 0) == ("cached" in kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_within_fifteen_per_cent(kind: str, tmp_path: Path, temporary: Path) -> None:
    """On a machine that does nothing else; ``benchmarks/plan_accuracy.py`` has larger models."""
    more = ("data.num_images=4000", *KINDS[kind])
    plan = measure.plan(compose(*LONG, *more))
    assert not list(temporary.iterdir())
    folder = tmp_path / "run"
    done = command("train", *LONG, *more, f"hydra.run.dir={folder}", env={"OMP_NUM_THREADS": "1"}, timeout=900)
    assert done.returncode == 0, done.stderr
    was = results(folder)
    assert size_of(folder) == pytest.approx(plan.bytes["folder"], rel=0.15)
    assert was["memory/peak_mib"] == pytest.approx(plan.figures["memory/peak_mib"], rel=0.15)
    assert was["seconds/fit"] == pytest.approx(plan.seconds["fit"], rel=0.15)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_command_says_it_in_a_table_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = command("plan", *TINY, "hydra.run.dir=run", "trainer.accumulate_grad_batches=2", cwd=here, fresh=True)
    assert done.returncode == 0, done.stderr
    for part in ("24,560 of 397,248 trained", "4 of 16 an epoch; 3 epochs, 6 steps", "peak memory", "MiB", "run folder", "MB"):
        assert part in done.stdout
    assert "Results" not in done.stdout  # of the abridged run
    assert not [*here.iterdir(), *temporary.iterdir()]


@pytest.mark.parametrize(
    ("overrides", "message"),
    quickly(
        [
            (("-m", "lora.r=1,2"), "a plan is for one run; leave -m and sweep= out"),
            (("sweep=rank",), "a plan is for one run; leave -m and sweep= out"),
            (("ckpt_path=last",), "a plan is for a whole run, from its start"),
            (("trainer=ddp", "trainer.accelerator=cpu"), "the run is one of 2 processes, and a plan measures one"),
            (("lora.targets=[blok]",), "pattern 'blok' matches no"),
            (("lora.rr=4",), r"unknown key lora.rr. Did you mean 'lora.r'"),
        ],
        3,
        names=2,
    ),
)
def test_mistakes_are_one_sentence(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command("plan", *TINY, *overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(f"^error: .*{message}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path: Path) -> None:
    """In a machine of 1 GiB more than the libraries take; the batch that is named then trains there."""
    large = (*TINY, *QUIET, "trainer=cpu", "data.num_images=700", "data.image_size=160", "trainer.precision=32-true")
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (2**31, limits[1]))
    try:
        plan = measure.plan(compose(*large, "data.batch_size=512"))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    assert plan.asked == 512
    assert plan.figures["batch_size"] in (16, 32, 64, 128, 256)
    assert plan.figures["memory/peak_mib"] < 2048


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_either(number: signal.Signals, tmp_path: Path, temporary: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    call = [sys.executable, "-m", "visionlora.plan", *TINY, "data.num_images=2000"]
    process = subprocess.Popen(call, cwd=here, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while not list(temporary.glob("visionlora-plan-*/run/config.yaml")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read()
    assert said.splitlines()[-1] in ("interrupted.", "terminated."), said
    assert "Traceback" not in said
    assert not [*here.iterdir(), *temporary.iterdir()]


@pytest.mark.slow
def test_a_process_that_the_system_ends_is_out_of_memory(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(measure, "_measure", _killed)
    with pytest.raises(UserError, match=r"out of memory with data\.batch_size=1: the system has ended the run"):
        measure.plan(compose(*TINY, "data.batch_size=2"))
    assert not list(temporary.iterdir())


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

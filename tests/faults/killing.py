"""Runs that are killed, at a moment or at their Nth change of a file, and what must be equal once they have gone on."""

from __future__ import annotations

import csv
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from conftest import FORKS, QUIET, TINY, as_started_afresh, command, results

EPOCHS = 3
COMMON = (*TINY, *QUIET, "trainer=cpu", f"trainer.max_epochs={EPOCHS}", "trainer.precision=32-true", "data.batch_size=16")
PICTURES = (*COMMON, "data=imagefolder", "data.image_size=32", "data.crop_scale=[0.5,1.0]", "data.randaugment=1")
TIMES = ("seconds/", "images_per_second", "memory/", "sha256", "metrics.csv")
"""Keys of ``results.json`` that are others each time, and hashes of what holds them."""
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Case:
    """A kind of run: its overrides, and whether it reads class folders."""

    overrides: tuple[str, ...]
    pictures: bool = False

    def command_line(self, folder: Path, root: Path) -> list[str]:
        return [*self.overrides, *([f"data.root={root}"] if self.pictures else []), f"hydra.run.dir={folder}"]


CASES = {
    "memory": Case((*COMMON, "data.num_images=96", "lora.dropout=0.1")),
    "without validation": Case((*COMMON, "data.num_images=96", "data.val_fraction=0")),
    "folders, workers 0": Case((*PICTURES, "data.num_workers=0"), pictures=True),
    "folders, workers 2": Case((*PICTURES, "data.num_workers=2"), pictures=True),
    "folders, default workers": Case((*PICTURES, "data.num_workers=null", "data.val_fraction=0.2"), pictures=True),
    "accumulation, dropout": Case((*COMMON, "data.num_images=96", "trainer.accumulate_grad_batches=2", "model.drop_rate=0.2")),
    "adalora": Case((*COMMON, "data.num_images=96", "lora=adaptive")),
    "cached features": Case((*COMMON, "data.num_images=96", "lora=none", "data.cache=memory")),
    "features cached on disk": Case((*COMMON, "data.num_images=96", "lora.targets=[layer4]", "data.cache=disk", "data.cache_views=3")),
}
TWO_PROCESSES = Case((*COMMON, "data.num_images=96", "trainer=ddp", "trainer.accelerator=cpu", f"trainer.max_epochs={EPOCHS}"))


class Killed:
    """A run in a process of its own, with its streams in files.

    Args:
        call: the overrides of ``visionlora.train``.
        folder: the run folder; its changes are counted.
        at: the change before which the process kills itself; ``None`` for never.
        env: more of its environment.
        notes: folder for its streams; beside the run folder when left out.
    """

    def __init__(
        self, call: list[str], folder: Path, at: int | None = None, env: dict[str, str] | None = None, notes: Path | None = None
    ) -> None:
        self.folder, self.notes = folder, notes or folder.with_name(f"{folder.name}-notes")
        self.notes.mkdir(parents=True, exist_ok=True)
        (self.notes / "changes").unlink(missing_ok=True)
        self.process: BaseProcess = FORKS.Process(target=_train, args=(call, folder, self.notes, at, env or {}))
        self.process.start()
        while self.process.is_alive() and not (self.notes / "changes").exists():  # signals before that would hit the test's own machinery
            time.sleep(0.001)

    def signal_after(self, seconds: float, number: int) -> bool:
        """Send a signal in so many seconds; ``False`` where the run was over by then."""
        self.process.join(seconds)
        if not self.process.is_alive():
            return False
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return True

    def wait(self, timeout: float = 120) -> int:
        self.process.join(timeout)
        assert not self.process.is_alive(), "the process outlived its signal"
        assert self.process.exitcode is not None
        return self.process.exitcode

    def done(self) -> subprocess.CompletedProcess[str]:
        """The run at its end, as ``conftest.command`` gives it."""
        code = self.wait()
        return subprocess.CompletedProcess([], code, (self.notes / "stdout").read_text(), self.stderr)

    @property
    def stderr(self) -> str:
        return (self.notes / "stderr").read_text()

    @property
    def changes(self) -> list[str]:
        """What the run did to its folder, in order."""
        return (self.notes / "changes").read_text().splitlines()

    def left_alive(self, seconds: float = 3) -> list[int]:
        """Processes that the run has started and that are there after so many seconds still."""
        deadline = time.monotonic() + seconds
        while (alive := session(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive


def session(leader: int | None) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # gone by now
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def _train(call: list[str], folder: Path, notes: Path, at: int | None, env: dict[str, str]) -> None:
    os.setsid()  # so that whoever this run starts can be told from others
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(notes / stream, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    as_started_afresh(**env)
    _count_changes(folder, os.open(notes / "changes", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), at)
    sys.argv = ["visionlora.train", *call]
    try:
        runpy.run_module("visionlora.train", run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _count_changes(folder: Path, ledger: int, at: int | None) -> None:
    """Write down each change of a file below ``folder`` before it is made; kill this process before the one numbered ``at``."""
    below, own, seen = os.fspath(folder), os.getpid(), 0

    def change(what: str, path: Any) -> None:
        nonlocal seen
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(below) or os.getpid() != own:
            return
        os.write(ledger, f"{what} {text[len(below) :]}\n".encode())
        if seen == at:
            os.kill(own, signal.SIGKILL)
        seen += 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & CHANGING:
            change("open", arguments[0])
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
            change(event.removeprefix("os."), arguments[0])

    fsync = os.fsync

    def watched_fsync(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        change("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(fd)

    os.fsync = watched_fsync
    sys.addaudithook(audit)


def slurm_job(place: Path) -> dict[str, str]:
    """The environment of a SLURM job of one task, with a stand-in for ``scontrol`` that notes in ``place/asked`` what it is asked and
    ends the job, as SLURM does.
    """
    tools = place / "tools"
    tools.mkdir()
    script = tools / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {place / "asked"}\nkill -TERM $PPID\n')
    script.chmod(0o755)
    ranks = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    return ranks | {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "night", "SLURM_NTASKS": "1", "PATH": f"{tools}:{os.environ['PATH']}"}


def go_on(call: list[str], folder: Path, runner: Callable[..., Any] = command) -> str:
    """Do what a user does with a killed run, until it is finished; returns its complaints on the way."""
    said = ""
    for _ in range(3):
        if (folder / "results.json").is_file():
            return said
        last = folder / "checkpoints" / "last.ckpt"
        done = runner("train", *(["ckpt_path=last", f"hydra.run.dir={folder}", *QUIET] if last.exists() else call))
        said += done.stderr
        assert done.returncode == 0, said
    raise AssertionError(f"the run does not come to its end: {said}")


def differences(folder: Path, reference: Path) -> list[str]:
    """In what a finished run differs from the uninterrupted one; times and memory aside."""
    found = []
    ours, theirs = results(folder), results(reference)
    keys = {key for key in {*ours, *theirs} if not key.startswith(TIMES)}
    found += [f"results.json: {key} {ours.get(key)} != {theirs.get(key)}" for key in sorted(keys) if ours.get(key) != theirs.get(key)]
    if _rows(folder) != _rows(reference):
        found.append("metrics.csv")
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "split.json", "base.safetensors"):
        files = [root / name for root in (folder, reference)]
        if [path.is_file() for path in files] not in ([True, True], [False, False]):
            found.append(f"{name} is in one of them only")
        elif files[0].is_file() and files[0].read_bytes() != files[1].read_bytes():
            found.append(name)
    for name in ("last", "best"):
        files = [root / "checkpoints" / f"{name}.ckpt" for root in (folder, reference)]
        if files[1].is_file():
            found += [f"{name}.ckpt: {key}" for key in _unequal(_learnt(files[0]), _learnt(files[1]))]
    return found


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


def _learnt(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    return {key: checkpoint[key] for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")}


def _unequal(ours: Any, theirs: Any, name: str = "") -> list[str]:
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [name]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [key for part in {*ours, *theirs} for key in _unequal(ours.get(part), theirs.get(part), f"{name}.{part}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [key for i, pair in enumerate(zip(ours, theirs, strict=True)) for key in _unequal(*pair, f"{name}.{i}")]
    return [] if ours == theirs else [name]

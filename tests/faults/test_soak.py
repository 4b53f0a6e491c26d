"""Long trainings and many of them in one process: memory, open files, threads and processes stay what they were."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
from conftest import FORKS, QUIET, TINY, as_started_afresh, compose
from lightning.pytorch.callbacks import Callback
from PIL import Image

from visionlora.training.run import run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory and threads are counted by Linux's /proc"),
]
Recorder = Callable[[str, object], None]

EPOCHS, RUNS = 200, 50
EVERY = 5
"""Epochs from one look to the next; collecting garbage takes longer than such an epoch."""
GROWTH = 0.02
"""Share by which resident memory may grow once caches and pools are filled."""
SHORT = (*TINY, *QUIET, "data.batch_size=16", "data.num_images=48", "trainer.log_every_n_steps=1")
FOLDERS = (*SHORT, "data=imagefolder", "data.image_size=32", "data.crop_scale=[0.5,1.0]")
KINDS = {
    "memory": SHORT,
    "worker processes": (*FOLDERS, "data.num_workers=1"),
    "cached features": (*SHORT, "lora.targets=[layer4]", "data.cache=disk", "data.cache_views=2"),
    "adalora": (*SHORT, "lora=adaptive"),
    "progress bar, tensorboard": (*SHORT, "callbacks=default", "trainer.enable_progress_bar=true", "logger=tensorboard"),
}


class Usage(NamedTuple):
    """What a process holds."""

    mib: float
    files: int
    threads: int
    children: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        fields = {name: int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmRSS", "Threads")}
        children = [child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
        return cls(fields["VmRSS"] / 2**10, len(os.listdir("/proc/self/fd")), fields["Threads"], len(children))


class Looking(Callback):
    """Notes at the start of every fifth epoch what the process holds."""

    def __init__(self, found: list[Usage]) -> None:
        self.found = found

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch % EVERY == 0:
            self.found.append(Usage.now())


def _epochs(overrides: Sequence[str], folder: Path, count: int) -> list[Usage]:
    found: list[Usage] = []
    run(compose(*overrides, f"trainer.max_epochs={count}"), folder / "run", [Looking(found)])
    return found


def _runs(overrides: Sequence[str], folder: Path, count: int) -> list[Usage]:
    found = []
    for number in range(count):
        run(compose(*overrides, "trainer.max_epochs=1", f"seed={number}"), folder / str(number))
        shutil.rmtree(folder / str(number))
        found.append(Usage.now())
    return found


def _watched(work: Callable[[Sequence[str], Path, int], list[Usage]], overrides: Sequence[str], folder: Path, count: int) -> None:
    as_started_afresh()
    with (folder / "printed").open("w") as printed, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        found = work(overrides, folder, count)
    (folder / "found.json").write_text(json.dumps(found))


def watch(work: Callable[[Sequence[str], Path, int], list[Usage]], kind: str, folder: Path, count: int) -> list[Usage]:
    """What a process of its own held, time after time."""
    overrides = [word.format(folder=folder) for word in KINDS[kind]]
    if "data=imagefolder" in overrides:
        overrides.append(f"data.root={pictures(folder / 'pictures')}")
    if "logger=tensorboard" in overrides:
        overrides.append(f"logger.tensorboard.save_dir={folder / 'tensorboard'}")
    process = FORKS.Process(target=_watched, args=(work, overrides, folder, count))
    process.start()
    process.join(900)
    assert process.exitcode == 0, (folder / "printed").read_text()[-3000:]
    return [Usage(*each) for each in json.loads((folder / "found.json").read_text())]


def pictures(root: Path) -> Path:
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 6)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.integers(0, 255, (36, 40, 3), dtype=np.uint8)).save(root / part / name / f"{i}.png")
    return root


def grown(found: Sequence[Usage]) -> list[str]:
    """What the second half of the time holds more of than the time before it did; the first fifth fills caches and pools."""
    settled, later = found[len(found) // 5 : len(found) // 2], found[len(found) // 2 :]
    wrong = []
    most, last = max(usage.mib for usage in settled), later[-1].mib
    if last > (1 + GROWTH) * most:
        wrong.append(f"memory {most:.0f} -> {last:.0f} MiB")
    for name in ("files", "threads", "children"):
        before, after = (max(getattr(usage, name) for usage in part) for part in (settled, later))
        if after > before:
            wrong.append(f"{name} {before} -> {after}")
    return wrong


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adalora"])
def test_two_hundred_epochs(kind: str, tmp_path: Path, record_property: Recorder) -> None:
    found = watch(_epochs, kind, tmp_path, EPOCHS)
    wrong = grown(found)
    record_property("kind", f"epochs in one run without growth ({kind})")
    record_property("tries", EPOCHS)
    record_property("held", 0 if wrong else EPOCHS)
    assert len(found) == EPOCHS / EVERY
    print(*found[:: len(found) // 10], sep="\n")  # shown where it fails
    assert not wrong


@pytest.mark.parametrize("kind", ["memory", "worker processes", "cached features", "adalora"])
def test_fifty_runs(kind: str, tmp_path: Path, record_property: Recorder) -> None:
    found = watch(_runs, kind, tmp_path, RUNS)
    wrong = grown(found)
    record_property("kind", f"runs in one process without growth ({kind})")
    record_property("tries", RUNS)
    record_property("held", 0 if wrong else RUNS)
    assert found[-1].children == 0
    print(*found[:: len(found) // 10], sep="\n")  # shown where it fails
    assert not wrong


def _leaks(overrides: Sequence[str], folder: Path, count: int) -> list[Usage]:
    found, kept = [], []
    for number in range(count):
        kept.append((np.ones(2**20), (folder / str(number)).open("w")))
        found.append(Usage.now())
    return found


def test_what_is_looked_for_can_be_found(tmp_path: Path) -> None:
    wrong = " ".join(grown(watch(_leaks, "memory", tmp_path, 20)))
    assert "memory" in wrong
    assert "files" in wrong

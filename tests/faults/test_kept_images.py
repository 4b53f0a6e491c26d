"""``data.decoded`` under kills, full disks, damage and other runs: a training ends as one that found the folder empty, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, command
from faults.disks import Disk
from faults.fixtures import Reference
from faults.killing import PICTURES, Case, Killed, differences, go_on
from PIL import Image

from visionlora.backbone.info import Preprocessing
from visionlora.common.files import is_part
from visionlora.data.config import DataConfig
from visionlora.data.decoded import _read
from visionlora.data.module import ImageData

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]

ROUNDS, EACH = 4, 6
"""Trainings that have to end well, each after so many that were killed with the same folder."""


def kept_in(folder: Path, workers: int = 0) -> Case:
    return Case((*PICTURES, f"data.num_workers={workers}", f"data.decoded={folder}"), pictures=True)


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_part(path) and not path.name.startswith("filler"))


def all_whole(folder: Path) -> bool:
    return all(_read(path, 3) is not None for path in kept(folder))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of images that differ in size: others of these few pixels would be kept in memory."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 6)):
        for number, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 90, (90 + i, 110, 3)) + 70 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Reference:
    """The run that finds an empty folder, and is left alone."""
    place = tmp_path_factory.mktemp("whole")
    return Reference(kept_in(place / "kept"), place / "run", root)


def test_killed_while_it_keeps_images(root: Path, tmp_path: Path, whole: Reference, record_property: Recorder) -> None:
    """Before a file is made, before it takes its place, between the two, in ever the same folder."""
    draw, store, killed, bad = random.Random(0), tmp_path / "kept", 0, []
    for number in range(ROUNDS * EACH):
        run = Killed(kept_in(store).command_line(tmp_path / f"killed{number}", root), store, draw.randrange(2, 30))
        killed += run.wait() == -signal.SIGKILL
        assert all_whole(store)
        shutil.rmtree(tmp_path / f"killed{number}", ignore_errors=True)
        if number % EACH == EACH - 1:
            last = tmp_path / f"last{number}"
            done = command("train", *kept_in(store).command_line(last, root))
            bad += [*differences(last, whole.folder), *([done.stderr] if done.returncode else [])]
            for path in kept(store)[number:]:  # so that there is something to be written in the next round
                path.unlink()
    record_property("kind", "killed by SIGKILL while it keeps decoded images")
    record_property("tries", ROUNDS * EACH)
    record_property("held", 0 if bad else killed)
    assert not bad
    assert killed == ROUNDS * EACH


@pytest.mark.parametrize("number", range(8))
def test_killed_with_workers_and_gone_on(
    number: int, root: Path, folder: Path, tmp_path: Path, whole: Reference, record_property: Recorder
) -> None:
    """At any moment, while two worker processes write; the run itself goes on."""
    record_property("kind", "killed by SIGKILL at a moment, decoded images kept by two workers")
    call = kept_in(tmp_path / "kept", 2).command_line(folder, root)
    run = Killed(call, folder)
    run.signal_after(random.Random(number).uniform(0.2, 1) * whole.seconds, signal.SIGKILL)
    run.wait()
    assert not run.left_alive()
    said = go_on(call, folder)
    assert not differences(folder, whole.folder), said
    assert all_whole(tmp_path / "kept")


@pytest.mark.parametrize("left", [0, 40, 200, 500, 900])
@pytest.mark.parametrize("disk", ["tmpfs", "ext4"], indirect=True)
def test_a_full_disk(left: int, disk: Disk, root: Path, folder: Path, whole: Reference, record_property: Recorder) -> None:
    record_property("kind", f"the disk of the decoded images full ({disk.kind})")
    (disk.root / "kept").mkdir()
    disk.leave(left)
    done = command("train", *kept_in(disk.root / "kept").command_line(folder, root))
    assert_told_once(done, "the disk is full; make room")
    assert not differences(folder, whole.folder)
    assert all_whole(disk.root / "kept")
    assert not [path for path in disk.root.rglob("*") if is_part(path)]


@pytest.mark.parametrize("left", [0, 1, 20])
@pytest.mark.parametrize("disk", ["inodes"], indirect=True)
def test_a_disk_that_takes_no_more_files(
    left: int, disk: Disk, root: Path, folder: Path, whole: Reference, record_property: Recorder
) -> None:
    record_property("kind", "the disk of the decoded images takes no more files")
    (disk.root / "kept").mkdir()
    disk.leave(left)
    assert_told_once(command("train", *kept_in(disk.root / "kept").command_line(folder, root)), "the disk is full; make room")
    assert not differences(folder, whole.folder)


def assert_told_once(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(said) == said[0].count("data.decoded: ") == said[0].count(words) == 1, done.stderr


@pytest.mark.parametrize("number", range(6))
def test_two_runs_with_one_folder(number: int, root: Path, tmp_path: Path, whole: Reference, record_property: Recorder) -> None:
    """At the same moment or within a second; every other time, one of them is killed."""
    record_property("kind", "two runs at once with one folder of decoded images")
    store, draw = tmp_path / "kept", random.Random(number)
    runs = []
    for i in range(2):
        runs.append(Killed(kept_in(store, i * 2).command_line(tmp_path / f"run{i}", root), tmp_path / f"run{i}"))
        time.sleep(draw.uniform(0, 1) if number % 3 else 0)
    if number % 2:
        runs[1].signal_after(draw.uniform(0.2, 1) * whole.seconds, signal.SIGKILL)
        runs[1].wait()
        go_on([*kept_in(store, 2).command_line(tmp_path / "run1", root), *QUIET], tmp_path / "run1")
    for run in runs[: 1 if number % 2 else 2]:
        assert run.wait() == 0, run.stderr
    for i in range(2):
        assert not differences(tmp_path / f"run{i}", whole.folder)
    assert all_whole(store)
    shutil.rmtree(tmp_path)


def shown(root: Path, store: Path) -> torch.Tensor:
    data = ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0, num_workers=0, decoded=str(store), crop_scale=[0.5, 1.0]))
    data.prepare_for(Preprocessing(32, (0.5,) * 3, (0.25,) * 3))
    return torch.cat([images for images, _ in data.train_dataloader()])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "a bit": lambda path, draw: path.write_bytes(_flipped(path.read_bytes(), draw.randrange(8 * path.stat().st_size))),
    "a bit of the head": lambda path, draw: path.write_bytes(_flipped(path.read_bytes(), draw.randrange(8 * 28))),
    "cut": lambda path, draw: os.truncate(path, draw.randrange(path.stat().st_size)),
    "empty": lambda path, draw: os.truncate(path, 0),
    "zeros": lambda path, draw: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path, draw: path.write_bytes(path.read_bytes() + b"x"),
    "noise": lambda path, draw: path.write_bytes(draw.randbytes(path.stat().st_size)),
    "a folder": lambda path, draw: _folder(path),
    "a link to itself": lambda path, draw: _loop(path),
}


def _flipped(content: bytes, bit: int) -> bytes:
    found = bytearray(content)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_files(what: str, tmp_path: Path, record_property: Recorder) -> None:
    """Some of them, twenty times: what is shown is what an empty folder gives."""
    record_property("kind", "damaged files among the decoded images")
    record_property("tries", 20)
    draw, root = random.Random(what), tmp_path / "images"
    for name in ("cat", "dog"):
        (root / f"train/{name}").mkdir(parents=True)
        for number in range(6):
            Image.frombytes("RGB", (60 + number, 48), draw.randbytes((60 + number) * 48 * 3)).save(root / f"train/{name}/{number}.png")
    wanted = shown(root, tmp_path / "kept")
    held = 0
    for _ in range(20):
        files = kept(tmp_path / "kept")
        assert len(files) >= 6
        for path in draw.sample(files, 4):
            DAMAGES[what](path, draw)
        held += torch.equal(shown(root, tmp_path / "kept"), wanted)
        for path in (tmp_path / "kept").rglob("*"):
            assert not is_part(path)
            if path.is_symlink():
                path.unlink()
            elif path.is_dir() and len(path.name) == 64:
                path.rmdir()
        shown(root, tmp_path / "kept")
    record_property("held", held)
    assert held == 20


def test_a_folder_that_is_removed_under_a_run(
    root: Path, folder: Path, tmp_path: Path, whole: Reference, record_property: Recorder
) -> None:
    record_property("kind", "the folder of decoded images removed under a run")
    store = tmp_path / "kept"
    run = Killed(kept_in(store).command_line(folder, root), folder)
    while run.process.is_alive() and len(kept(store) if store.is_dir() else []) < 20:
        time.sleep(0.01)
    shutil.rmtree(store, ignore_errors=True)
    done = run.done()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("data.decoded: ") <= 1
    assert not differences(folder, whole.folder)

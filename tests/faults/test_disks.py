"""Train on disks that are full, read-only or gone: one sentence, what was good stands, and the run goes on to the same end, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, command
from faults.disks import Disk, assert_nothing_half, assert_one_sentence, contents
from faults.fixtures import Reference
from faults.killing import CASES, COMMON, TWO_PROCESSES, Case, Killed, differences, go_on

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]
References = Callable[[Case], Reference]

SIZES = 20
NAMES = list(CASES)
LONG = Case((*COMMON, "data.num_images=400", "lora.dropout=0.1"))


def _again(call: list[str], folder: Path) -> list[str]:
    """What a user types after a run has broken."""
    resumable = (folder / "checkpoints" / "last.ckpt").exists()
    return ["ckpt_path=last", f"hydra.run.dir={folder}", *QUIET] if resumable else call


def _checkpoints(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.endswith(".ckpt")}


def _filled_and_emptied(case: Case, disk: Disk, left: int, root: Path, whole: Reference) -> None:
    """The disk is full, still full when the user tries again, and has room at last."""
    folder = disk.root / "run"
    call = case.command_line(folder, root)
    disk.leave(left)
    assert_one_sentence(command("train", *call), "the disk is full; make room", str(disk.root))
    assert_nothing_half(disk.root)
    before = _checkpoints(folder)
    assert_one_sentence(command("train", *_again(call, folder)), "the disk is full; make room", str(disk.root))
    assert_nothing_half(disk.root)
    assert {*before} <= {*_checkpoints(folder)}
    disk.leave(None)
    said = go_on(call, folder)
    assert not differences(folder, whole.folder), said


@pytest.mark.parametrize("number", range(SIZES))
@pytest.mark.parametrize("disk", ["tmpfs", "ext4"], indirect=True)
def test_full(number: int, disk: Disk, root: Path, reference: References, record_property: Recorder) -> None:
    """Between nothing and all but a twentieth of what the run needs."""
    record_property("kind", f"the disk full at a size ({disk.kind})")
    case = CASES[NAMES[(number + (disk.kind == "ext4")) % len(NAMES)]]
    whole = reference(case)
    _filled_and_emptied(case, disk, whole.kib * number // SIZES, root, whole)


@pytest.mark.parametrize("number", [0, 1, 4, 6, 8, 9])
@pytest.mark.parametrize("disk", ["inodes"], indirect=True)
def test_no_more_files(number: int, disk: Disk, root: Path, reference: References, record_property: Recorder) -> None:
    """There is room, but not for a file more."""
    record_property("kind", "the disk takes no more files")
    case = CASES["memory"]
    _filled_and_emptied(case, disk, number, root, reference(case))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_full_with_two_processes(share: float, disk: Disk, root: Path, reference: References, record_property: Recorder) -> None:
    record_property("kind", "the disk full, two processes")
    whole = reference(TWO_PROCESSES)
    _filled_and_emptied(TWO_PROCESSES, disk, int(whole.kib * share), root, whole)


@pytest.mark.parametrize("kib", [8, 50, 100, 200, 300])
def test_files_that_may_not_be_larger(kib: int, folder: Path, root: Path, reference: References, record_property: Recorder) -> None:
    """``ulimit -f``, which anybody can set who is not root."""
    record_property("kind", "files that may not be larger (ulimit -f)")
    case = CASES["without validation"]
    whole = reference(case)
    done = command("train", *case.command_line(folder, root), limit=1024 * kib)
    assert_one_sentence(done, "larger than is allowed here (ulimit -f)")
    if folder.exists():
        assert_nothing_half(folder)
    said = go_on(case.command_line(folder, root), folder)
    assert not differences(folder, whole.folder), said


def _at_work(case: Case, folder: Path, root: Path) -> Killed:
    """A run that has written its first checkpoint."""
    run = Killed(case.command_line(folder, root), folder, notes=folder.parent.parent / "notes")
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return run


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_read_only_while_it_runs(number: int, disk: Disk, root: Path, reference: References, record_property: Recorder) -> None:
    """As a disk becomes when the system finds it at fault."""
    record_property("kind", "the disk becomes read-only in the middle")
    folder = disk.root / "run"
    run = _at_work(LONG, folder, root)
    time.sleep(0.05 * number)
    disk.read_only()
    assert_one_sentence(run.done(), "the disk is read-only; make it writable")
    assert_one_sentence(command("train", *_again([], folder)), "the disk is read-only; make it writable", str(folder))
    disk.mend()
    assert_nothing_half(folder)
    said = go_on(LONG.command_line(folder, root), folder)
    assert not differences(folder, reference(LONG).folder), said


@pytest.mark.parametrize("number", range(10))
def test_renamed_while_it_runs(number: int, tmp_path: Path, root: Path, reference: References, record_property: Recorder) -> None:
    """What was written is under the new name, nothing is made under the old one, and the run goes on there."""
    record_property("kind", "the run folder renamed while it runs")
    folder, moved = tmp_path / "runs" / "run", tmp_path / "elsewhere"
    run = _at_work(LONG, folder, root)
    time.sleep(random.Random(number).uniform(0, 0.3))
    folder.rename(moved)
    assert_one_sentence(run.done(), "it is not there (any more)", "ckpt_path=last hydra.run.dir=THERE")
    assert not folder.exists()
    said = go_on([], moved)
    assert not differences(moved, reference(LONG).folder), said
    shutil.rmtree(moved)


@pytest.mark.parametrize("number", range(5))
def test_removed_while_it_runs(number: int, tmp_path: Path, root: Path, record_property: Recorder) -> None:
    record_property("kind", "the run folder removed while it runs")
    folder = tmp_path / "runs" / "run"
    run = _at_work(LONG, folder, root)
    time.sleep(random.Random(number).uniform(0, 0.3))
    shutil.rmtree(folder, ignore_errors=number % 2 == 0)
    assert_one_sentence(run.done(), "it is not there (any more)")
    assert not folder.exists()


def test_read_only_from_the_start(disk: Disk, root: Path, record_property: Recorder) -> None:
    record_property("kind", "the disk read-only from the start")
    os.system(f"mount -o remount,ro {disk.root}")
    done = command("train", *CASES["memory"].command_line(disk.root / "run", root))
    assert_one_sentence(done, "the disk is read-only; make it writable", str(disk.root))


@pytest.mark.parametrize("kind", ["tmpfs", "full", "missing"])
def test_the_temporary_folder(kind: str, disk: Disk, folder: Path, root: Path, reference: References, record_property: Recorder) -> None:
    """It may be on another disk, full, or not there: a run does not need one."""
    record_property("kind", "the temporary folder elsewhere, full, or missing")
    case = CASES["memory"]
    disk.leave(0 if kind == "full" else None)
    place = disk.root / "missing" if kind == "missing" else disk.root
    done = command("train", *case.command_line(folder, root), env={"TMPDIR": str(place)})
    assert done.returncode == 0, done.stderr
    assert not differences(folder, reference(case).folder)


@pytest.mark.parametrize("kib", [8, 200, 700])
def test_features_that_find_no_room(
    kib: int, disk: Disk, folder: Path, root: Path, reference: References, record_property: Recorder
) -> None:
    """``data.cache=disk`` on a full disk, and with room again."""
    record_property("kind", "the disk of the feature cache full")
    case = CASES["features cached on disk"]
    disk.leave(kib)
    done = command("train", *case.command_line(folder, root), env={"TMPDIR": str(disk.root)})
    assert_one_sentence(done, "data.cache=disk", "MiB", str(disk.root))
    disk.leave(None)
    assert command("train", *case.command_line(folder, root), env={"TMPDIR": str(disk.root)}).returncode == 0
    assert not differences(folder, reference(case).folder)
    assert not [path for path in disk.root.iterdir() if path.name.startswith("visionlora-")]


def test_features_whose_room_is_taken_meanwhile(folder: Path, root: Path, record_property: Recorder) -> None:
    """The room is there when it is looked for and not when it is taken: a sentence, where a mapped file would end the process."""
    record_property("kind", "the disk of the feature cache full")
    case = CASES["features cached on disk"]
    assert_one_sentence(command("train", *case.command_line(folder, root), limit=900 * 1024), "larger than is allowed here")


@pytest.mark.parametrize("kib", [0, 4, 8, 12])
def test_a_tracker_on_a_full_disk_stops_no_run(
    kib: int, disk: Disk, folder: Path, root: Path, reference: References, record_property: Recorder
) -> None:
    record_property("kind", "a tracker's disk full")
    pytest.importorskip("tensorboard")
    case = CASES["memory"]
    disk.leave(kib)
    tracker = ("logger=tensorboard", f"logger.tensorboard.save_dir={disk.root}")
    done = command("train", *case.command_line(folder, root), *tracker)
    if done.returncode:  # it could not even be opened: told before anything is trained
        assert_one_sentence(done, "TensorBoardLogger cannot be used", "the disk is full")
        assert not (folder / "checkpoints").exists()
    else:
        lines = done.stderr.splitlines()
        assert not lines or (len(lines) == 1 and "the disk is full" in lines[0] and "TensorBoardLogger" in lines[0]), done.stderr
        assert not differences(folder, reference(case).folder)


def test_output_that_nobody_takes(folder: Path, root: Path, record_property: Recorder) -> None:
    """``train > /dev/full``: the command fails and does not print a traceback."""
    record_property("kind", "what is printed finds no room")
    done = command("train", *CASES["memory"].command_line(folder, root), stdout="/dev/full")
    assert_one_sentence(done, "the disk is full; make room")


def test_shared_memory_that_is_full(folder: Path, root: Path, record_property: Recorder) -> None:
    """The processes that open images hand them over in /dev/shm, which is small in a container."""
    record_property("kind", "shared memory full")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can have a small /dev/shm of its own")
    words = [*CASES["folders, workers 2"].command_line(folder, root), "data.image_size=224"]
    script = 'mount -t tmpfs -o size=200k none /dev/shm && exec "$@"'
    call = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "visionlora.train", *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert_one_sentence(done, "the shared memory (/dev/shm) is full")

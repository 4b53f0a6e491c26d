"""What is told of a disk that does not take a file: one sentence with the file, and what was there stands. Smaller than tests/faults."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command
from faults.disks import assert_nothing_half, assert_one_sentence, contents

from visionlora.common.disk import disk_trouble

ONE = (*TINY, *QUIET, "trainer=cpu", "trainer.max_epochs=1", "data.num_images=64")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "a.csv: the disk is full; make room."),
        (OSError(errno.EROFS, "Read-only file system", "a.part", None, "a.csv"), "a.csv: the disk is read-only; make it writable."),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), "No usable temporary directory found: it is not there"),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), "the disk is full; make room."),
        (RuntimeError("DataLoader worker is killed by signal: Bus error. … dataloader's workers are out of shared memory."), "/dev/shm"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
    ],
)  # fmt: skip
def test_sentences(error: Exception, told: str) -> None:
    assert disk_trouble(error).startswith(told) if told != "/dev/shm" else told in disk_trouble(error)
    assert bool(disk_trouble(error)) == bool(told)
    wrapped = ValueError("you tried to log -1")
    wrapped.__cause__ = error
    if isinstance(error, OSError):
        assert disk_trouble(wrapped) == disk_trouble(error)


def test_a_run_whose_files_find_no_room_goes_on_once_they_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    call = (*ONE, f"hydra.run.dir={folder}", "trainer.max_epochs=2", "lora.r=1")
    done = command("train", *call, limit=300 * 1024)  # less than the backbone's own weights
    assert_one_sentence(done, f"{folder / 'base.safetensors'}: a file would be larger than is allowed here (ulimit -f)")
    assert_nothing_half(folder)
    assert not list(folder.rglob("base*"))
    assert command("train", *call).returncode == 0


def test_an_export_that_finds_no_room_leaves_the_one_before(tiny_run: Path, tmp_path: Path) -> None:
    """torch's own writer would end the process, without saying that it is the disk."""
    output = tmp_path / "out"
    words = ("export", f"run={tiny_run}", "format=pt2", f"output={output}", "overwrite=true")
    assert command(*words).returncode == 0
    before = contents(output)
    done = command(*words, limit=500 * 1024)
    assert_one_sentence(done, str(output), "larger than is allowed here (ulimit -f)")
    assert contents(output) == before
    assert os.listdir(output) == ["pt2"]
    shutil.rmtree(output)

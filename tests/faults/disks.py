"""Small file systems of a test's own that can be filled, made read-only and mended, and what a command has to say of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from visionlora.runs.checkpoints import damage

SIZE = 48
"""MiB of a disk."""
INODES = 120
"""Files that a disk of the kind ``inodes`` takes."""
_OPTIONS = {"tmpfs": f"size={SIZE}m", "inodes": f"size={SIZE}m,nr_inodes={INODES}", "ext4": "loop"}


class Disk:
    """A file system of ``SIZE`` MiB mounted at ``root``; only root can have one.

    Args:
        place: a folder for it.
        kind: ``tmpfs``, ``ext4``, or ``inodes``, a tmpfs that has room for few files.
    """

    def __init__(self, place: Path, kind: str = "tmpfs") -> None:
        self.root, self.kind, self.image = place / "disk", kind, place / "image"
        self.root.mkdir(parents=True)
        if kind == "ext4":
            with self.image.open("wb") as file:
                file.truncate(SIZE * 2**20)
            _system("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.mount()

    def mount(self) -> None:
        kind = ["-t", "ext4", self.image] if self.kind == "ext4" else ["-t", "tmpfs", "none"]
        _system("mount", "-o", _OPTIONS[self.kind], *kind, self.root)

    @property
    def free(self) -> int:
        """KiB."""
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize // 1024

    def leave(self, number: int | None) -> None:
        """Fill the disk until so many KiB are free, or so many files can be made; ``None`` for all the room there is."""
        filler = self.root / "filler"
        if self.kind == "inodes":
            for path in self.root.glob("filler*"):
                path.unlink()
            for i in range(0 if number is None else os.statvfs(self.root).f_ffree - number):
                filler.with_name(f"filler{i}").touch()
            return
        filler.unlink(missing_ok=True)
        if number is not None and (more := self.free - number) > 0:
            with filler.open("wb") as file:
                while more > 0:
                    try:
                        os.posix_fallocate(file.fileno(), 0, more * 1024)
                        break
                    except OSError:  # the file system keeps some of it to itself
                        more -= 4

    def read_only(self) -> None:
        """As a disk becomes when it fails while it is in use; of ``ext4`` only. ``mend`` makes it good again."""
        _system("mount", "-o", "remount,abort", self.root)

    def mend(self) -> None:
        """Check the file system and mount it anew."""
        _system("umount", self.root)
        subprocess.run(["e2fsck", "-y", self.image], capture_output=True, check=False)  # 1 says that it has mended something
        self.mount()

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.root], capture_output=True, check=False)
        self.image.unlink(missing_ok=True)


def _system(*words: Any) -> None:
    """A command that root may give; whoever is not root, or in a container without that right, skips the test."""
    try:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no {error.filename} here")
    if done.returncode:
        pytest.skip(f"no file systems can be mounted here: {done.stderr.strip()}")


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed, and says why in a sentence that has these words."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def assert_nothing_half(folder: Path) -> None:
    """Every checkpoint below the folder is whole, and no file that was being written is left."""
    assert not [path for path in folder.rglob("*.ckpt") if damage(path)]
    assert not [*folder.rglob(".*.part"), *folder.rglob("trial")]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path; the disk's filler aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("filler"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}

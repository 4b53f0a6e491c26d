"""What the fault tests share: images, uninterrupted runs to compare with, and small disks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.disks import Disk
from faults.killing import Case, Killed
from PIL import Image


class Reference:
    """The uninterrupted run of a case: its folder, what it did to it, and how long it took."""

    def __init__(self, case: Case, folder: Path, root: Path) -> None:
        started = time.monotonic()
        whole = Killed(case.command_line(folder, root), folder)
        assert whole.wait() == 0, whole.stderr
        self.folder, self.changes, self.seconds = folder, whole.changes, time.monotonic() - started

    @property
    def kib(self) -> int:
        """What its files take on a disk."""
        return sum(-(-path.stat().st_size // 4096) * 4 for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of random images."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for number, name in enumerate(("cat", "dog", "owl")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 90, (40, 44, 3)) + 70 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Callable[[Case], Reference]:
    """Each case's uninterrupted run, made when first asked for."""
    made: dict[Case, Reference] = {}

    def of(case: Case) -> Reference:
        if case not in made:
            made[case] = Reference(case, tmp_path_factory.mktemp("whole") / "run", root)
        return made[case]

    return of


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run folder that is gone after the test: hundreds of them would fill a disk."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path)


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """A small disk, of the kind that ``indirect`` parameters name, or a tmpfs."""
    made = Disk(tmp_path_factory.mktemp("small"), getattr(request, "param", "tmpfs"))
    try:
        yield made
    finally:
        made.close()

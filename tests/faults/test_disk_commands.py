"""Every other command onto a full or read-only disk: one sentence, what it wrote before stands, and it works with room again."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command, results
from faults.disks import Disk, assert_nothing_half, assert_one_sentence, contents
from PIL import Image

pytestmark = pytest.mark.faults
Recorder = Callable[[str, object], None]

# Words of each command, with RUN, OUT and PICTURES to be filled in, and KiB that are left for it: too few for what it writes.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "evaluate": (("evaluate", "run=RUN"), (0, 4, 8)),
    "evaluate, compared": (("evaluate", "run=RUN", "compare=true"), (0,)),
    "predict, csv": (("predict", "run=RUN", "input=PICTURES", "output=OUT/p.csv", "overwrite=true"), (0,)),
    "predict, parquet": (("predict", "run=RUN", "input=PICTURES", "output=OUT/p.parquet", "overwrite=true"), (0,)),
    "explain": (("explain", "run=RUN"), (0, 20)),
    "report": (("report", "runs=RUN", "output=OUT/report"), (0, 4, 200)),
    "export, timm": (("export", "run=RUN", "format=timm", "overwrite=true"), (0, 20, 1000)),
    "export, state_dict": (("export", "run=RUN", "format=state_dict", "overwrite=true"), (0, 1000)),
    "export, onnx": (("export", "run=RUN", "format=onnx", "overwrite=true"), (0, 1000)),
    "export, pt2": (("export", "run=RUN", "format=pt2", "overwrite=true"), (0, 200, 1000)),
    "compress": (("compress", "run=RUN"), (0, 1500, 3500, 4500)),
}


@pytest.fixture
def place(disk: Disk, tiny_run_on_pictures: Path) -> Disk:
    """A disk with a finished run and a folder for outputs."""
    shutil.copytree(tiny_run_on_pictures, disk.root / "run")
    (disk.root / "out").mkdir()
    return disk


@pytest.fixture(scope="session")
def tiny_run_on_pictures(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("pictures-run") / "run"
    data = ("data=imagefolder", f"data.root={root}", "data.image_size=32")
    done = command("train", *TINY, *QUIET, *data, "trainer.max_epochs=1", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def _words(name: str, disk: Disk, root: Path) -> list[str]:
    places = {"RUN": disk.root / "run", "OUT": disk.root / "out", "PICTURES": root / "test"}
    words = [*COMMANDS[name][0]]
    for key, path in places.items():
        words = [word.replace(key, str(path)) for word in words]
    return words


def _whole(name: str, content: bytes) -> bool:
    """Whether a file with a time or a date in it, which is never the same twice, is one to the end."""
    if name.endswith(".json"):
        return bool(json.loads(content))
    if name.endswith(".png"):
        Image.open(io.BytesIO(content)).load()
        return True
    if name.endswith(".pdf"):
        return content.rstrip().endswith(b"%%EOF")
    return (name.endswith((".html", ".csv", ".md")) and content.endswith(b"\n")) or content.rstrip().endswith(b"</html>")


def _assert_stands(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    assert {*after} == {*before}
    assert all(after[name] == before[name] or _whole(name, after[name]) for name in before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, place: Disk, root: Path, record_property: Recorder) -> None:
    words, sizes = _words(name, place, root), COMMANDS[name][1]
    record_property("kind", f"{words[0]} onto a full disk")
    record_property("tries", len(sizes) + 1)
    place.leave(0)
    first = contents(place.root)
    assert_one_sentence(command(*words), "the disk is full; make room")
    assert contents(place.root) == first
    place.leave(None)
    done = command(*words)
    assert done.returncode == 0, done.stderr
    before = contents(place.root)
    for kib in sizes:
        place.leave(kib)
        assert_one_sentence(command(*words), "the disk is full; make room", str(place.root))
        _assert_stands(before, contents(place.root))
        assert_nothing_half(place.root)
    place.leave(None)
    assert command(*words).returncode == 0
    _assert_stands(before, contents(place.root))


@pytest.mark.parametrize("name", [name for name in COMMANDS if not name.startswith("compress")])
def test_a_read_only_disk(name: str, place: Disk, root: Path, record_property: Recorder) -> None:
    words = _words(name, place, root)
    record_property("kind", f"{words[0]} onto a read-only disk")
    os.system(f"mount -o remount,ro {place.root}")
    assert_one_sentence(command(*words), "the disk is read-only; make it writable", str(place.root))


@pytest.mark.parametrize(("command_", "kib"), [("pack", 0), ("pack", 4), ("pack", 30), ("check", 0), ("check", 4)])
def test_packing_and_checking(command_: str, kib: int, disk: Disk, root: Path, record_property: Recorder) -> None:
    """What was whole stays, nothing else does; with room again it is as it would have been."""
    record_property("kind", f"{command_} onto a full disk")
    model = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data.image_size=32", "data.num_workers=0")
    words = (command_, "data=imagefolder", f"data.root={root}", *(("images=4",) if command_ == "pack" else model))
    disk.leave(kib)
    assert_one_sentence(command(*words, f"output={disk.root / 'out'}"), "the disk is full; make room")
    assert_nothing_half(disk.root)
    disk.leave(None)
    assert command(*words, f"output={disk.root / 'out'}").returncode == 0
    assert command(*words, f"output={disk.root / 'whole'}").returncode == 0
    assert contents(disk.root / "out") == contents(disk.root / "whole")


SWEEP = ("-m", *TINY, *QUIET, "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "lora.r=1,2,4")


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["one by one", "joblib"])
@pytest.mark.parametrize("kib", [0, 100, 2300, 4000])
def test_a_sweep(kib: int, launcher: tuple[str, ...], disk: Disk, tmp_path: Path, record_property: Recorder) -> None:
    """The runs that found room stand, the others are told, and the same command does what is left."""
    record_property("kind", "a sweep onto a full disk")
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    whole, folder = tmp_path / "whole", disk.root / "sweep"
    assert command("train", *SWEEP, f"hydra.sweep.dir={whole}").returncode == 0
    disk.leave(kib)
    done = command("train", *SWEEP, *launcher, f"hydra.sweep.dir={folder}", fresh=bool(launcher))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("error: ") and "the disk is full" in line for line in done.stderr.splitlines()), done.stderr
    disk.leave(None)
    done = command("train", *SWEEP, *launcher, f"hydra.sweep.dir={folder}", fresh=bool(launcher))
    assert done.returncode == 0, done.stderr
    for name in ("run-lora.r-1", "run-lora.r-2", "run-lora.r-4"):
        assert results(folder / name)["test/loss"] == results(whole / name)["test/loss"]
        adapter = "adapter/adapter_model.safetensors"
        assert (folder / name / adapter).read_bytes() == (whole / name / adapter).read_bytes()


@pytest.mark.parametrize("kib", [0, 4, 1500, 3000])
def test_a_search(kib: int, disk: Disk, record_property: Recorder) -> None:
    record_property("kind", "a search onto a full disk")
    pytest.importorskip("optuna")
    words = [*TINY, *QUIET, "trainer=cpu", "trainer.max_epochs=1", "search.trials=2", f"hydra.run.dir={disk.root / 'search'}"]
    disk.leave(kib)
    assert_one_sentence(command("search", *words), "the disk is full; make room")
    disk.leave(None)
    done = command("search", *words)
    assert done.returncode == 0, done.stderr
    assert (disk.root / "search" / "best.txt").is_file()

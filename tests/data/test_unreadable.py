"""What cannot be read is left out, named and replaced by nothing: in batches, and from the start of a run to its evaluation."""

from __future__ import annotations

import csv
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, command, compose, results
from faults.killing import PICTURES, Killed, differences, go_on
from PIL import Image
from quickly import quickly
from safetensors.torch import load_file

import visionlora as vl
from visionlora.backbone.info import Preprocessing
from visionlora.data.config import DataConfig
from visionlora.data.loading import EpochSampler
from visionlora.data.module import ImageData
from visionlora.training.run import run

Folders = Callable[..., Path]
WANTED = Preprocessing(24, (0.5,) * 3, (0.5,) * 3)
SIDE = 80  # larger than what is kept in memory
SETTINGS = (
    *TINY,
    *QUIET,
    "data=imagefolder",
    "data.image_size=32",
    "data.batch_size=8",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
)


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def pictures(root: Path, bad: dict[str, range], train: int = 24, test: int = 8, side: int = SIDE, pad: int = 0) -> Path:
    """Class folders with broken files: ``bad={"train/cat": range(3)}``; ``pad`` bytes behind each image, which nobody reads."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for number, label in enumerate(("cat", "dog")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 90, (side, side + 4, 3)) + 100 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
                if i in bad.get(f"{part}/{label}", ()):
                    broken(folder / f"{i:03}.png")
                elif pad:
                    with (folder / f"{i:03}.png").open("r+b") as file:
                        file.truncate(pad)
    return root


def listed(folder: Path) -> list[str]:
    with (folder / "bad_files.csv").open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


def names(folder: Path, bad: dict[str, range]) -> list[str]:
    return sorted(f"{where}/{i:03}.png" for where, numbers in bad.items() for i in numbers)


@pytest.fixture
def not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a large set: what cannot be read is found when its turn comes."""
    monkeypatch.setattr("visionlora.data.first_look.checked.__defaults__", (-1,))


def loaded(root: Path, workers: int = 0, batch_size: int = 5, **more: Any) -> ImageData:
    data = ImageData(DataConfig("imagefolder", str(root), batch_size, workers, image_size=24, crop_scale=None, hflip=0.0, **more))
    data.prepare_for(WANTED)
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_whole_set_without_what_cannot_be_read(workers: int, tmp_path: Path) -> None:
    bad = {"train/cat": range(5), "test/dog": range(2)}
    whole, lessened = loaded(pictures(tmp_path / "whole", {})), loaded(pictures(tmp_path / "bad", bad), workers)
    out = names(tmp_path, bad)
    sampler = EpochSampler(len(whole.parts["train"]), 0, shuffle=True)
    sampler.set_epoch(1)
    order = [index for index, _ in sampler]
    for part, loaders in (
        ("train", [data.train_dataloader() for data in (whole, lessened)]),
        ("test", [data.eval_dataloader("test") for data in (whole, lessened)]),
    ):
        for loader in loaders:
            assert isinstance(loader.sampler, EpochSampler)
            loader.sampler.set_epoch(1)
        given = whole.parts[part]
        batches, fewer = list(loaders[0]), list(loaders[1])
        assert len(batches) == len(fewer) == len(loaders[1])
        start = 0
        for (images, labels), (others, found) in zip(batches, fewer, strict=True):
            asked = (order if part == "train" else list(range(len(given))))[start : start + len(labels)]
            start += len(labels)
            kept = [place for place, index in enumerate(asked) if given.names[index] not in out]
            assert torch.equal(images[kept], others)
            assert torch.equal(labels[kept], found)
    assert set(lessened.unreadable) <= set(out)
    assert lessened.unreadable_in("test").keys() == set(names(tmp_path, {"test/dog": range(2)}))


def test_batches_of_none_and_of_one(tmp_path: Path) -> None:
    """In training they come, empty: every process makes the steps it has planned. Elsewhere they do not."""
    root = pictures(tmp_path, {"train/cat": range(24), "train/dog": range(23), "test/cat": range(8)})
    data = loaded(root, val_fraction=0.0)
    sizes = [(tuple(images.shape[1:]), len(labels)) for images, labels in data.train_dataloader()]
    assert len(sizes) == len(data.train_dataloader()) == 10
    assert sorted(size for _, size in sizes) == [0] * 9 + [1]
    batch = data.on_after_batch_transfer((torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0)), 0)
    assert len(batch[0]) == 0
    assert [labels.tolist() for _, labels in data.test_dataloader()] == [[1, 1], [1] * 5, [1]]


CASES: dict[str, tuple[str, ...]] = {
    "moving statistics, accumulation": ("model.freeze_bn=false", "trainer.accumulate_grad_batches=3"),
    "cached": ("lora.targets=[layer4]", "data.cache=memory"),
    "plain": (),
    "no norms": ("model=torchvision", "model.name=squeezenet1_1", "data.image_size=64"),
    "adalora": ("lora=adaptive",),
    "probe": ("lora=none", "model.head_init=probe"),
    "budget": ("lora.budget=1%", "lora.allocate=importance", "lora.allocate_batches=40"),
    "batches of one": ("data.batch_size=1",),
}


@pytest.mark.usefixtures("not_checked")
@pytest.mark.parametrize("case", quickly(CASES, 2, pytest.mark.faults))
def test_a_training_with_broken_pictures_goes_through(case: str, tmp_path: Path) -> None:
    """With most of them broken, batches come out empty, in training, validation and the measurement before."""
    bad = {"train/cat": range(18), "train/dog": range(16), "test/dog": range(8)}
    root = pictures(tmp_path / "data", bad, train=24)
    overrides = (f"data.root={root}", "data.max_bad=0.95", "data.val_fraction=0.2", "data.batch_size=2", *CASES[case], "logger={}")
    run(compose(*SETTINGS, *overrides), tmp_path / "run")
    assert listed(tmp_path / "run") == names(root, bad)
    figures = results(tmp_path / "run")
    assert figures["data/unreadable"] == 42
    assert np.isfinite(figures["test/loss"])
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors").values())


@pytest.mark.parametrize("how", ["small files", "few files", "many files"])
def test_too_many_end_the_run_with_their_names(how: str, tmp_path: Path) -> None:
    bad = {"train/cat": range(8), "train/dog": range(6)}
    root = pictures(tmp_path / "data", bad, side=16 if how == "small files" else SIDE, pad=2**20 if how == "many files" else 0)
    folder = tmp_path / "run"
    call = [*SETTINGS, f"data.root={root}", f"hydra.run.dir={folder}", "data.num_workers=1"]
    done = command("train", *call, "data.max_bad=0.1")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = re.search(r"^error: (\d+) of 64 images cannot be read, and data.max_bad=0.1 allows 6: (.*)", done.stderr, re.M)
    assert told
    if how != "many files":
        assert told[1] == "14"
        assert listed(folder) == names(root, bad)
        assert "and 4 more" in told[2]
        assert not (folder / "config.yaml").exists()
    assert set(listed(folder)) <= set(names(root, bad))
    assert str(folder / "bad_files.csv") in told[2]
    for name in listed(folder)[:7]:
        assert f"{name} (" in told[2]
    if how != "many files":
        return
    done = command("train", *call, "data.max_bad=0.25")  # into the same folder
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("14 of 64 images cannot be read and are left out") <= 1
    assert "of 64 images cannot be read and are left out" in done.stderr
    assert listed(folder) == names(root, bad)
    assert results(folder)["data/unreadable"] == 14


def test_a_part_of_which_nothing_is_left_ends_the_run(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", {"test/cat": range(8), "test/dog": range(8)})
    done = command("train", *SETTINGS, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}", "data.max_bad=1")
    assert done.returncode == 2
    assert "none of the test part is left" in done.stderr
    assert len(listed(tmp_path / "run")) == 16


def test_evaluation_leaves_them_out_counts_them_and_says_so(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", {})
    folder = tmp_path / "run"
    done = command("train", *SETTINGS, f"data.root={root}", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert not (folder / "bad_files.csv").exists()
    assert results(folder)["data/unreadable"] == 0
    broken(root / "test" / "cat" / "003.png")
    (root / "test" / "dog" / "001.png").write_bytes(b"")
    done = command("evaluate", f"run={folder}")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "evaluation_test.json").read_text())["test/unreadable"] == 2
    said = " ".join(done.stdout.split())
    for name in ("test/cat/003.png", "test/dog/001.png"):
        assert f"{name} (" in said
    report = json.loads((folder / "evaluation_test" / "classes.json").read_text())
    assert [report[label]["support"] for label in ("cat", "dog")] == [7, 7]
    done = command("evaluate", f"run={folder}", "compare=true")
    assert done.returncode == 0, done.stderr
    for label in ("cat", "dog"):
        for path in (root / "test" / label).iterdir():
            path.write_bytes(b"")
    done = command("evaluate", f"run={folder}")
    assert done.returncode == 2
    assert "none of the 16 images of the test part can be read" in done.stderr


@pytest.mark.parametrize("name", ["=cmd.png", "+1.png", "-1.png", "@a.png", "a,b.png", 'a"b.png'])
def test_names_stay_text_in_a_spreadsheet(name: str, tmp_path: Path) -> None:
    data = loaded(pictures(tmp_path / "data", {}))
    data.unreadable[name] = "=why"
    from visionlora.runs.bad_files import BadFiles
    from visionlora.runs.folder import RunFolder

    BadFiles(RunFolder(tmp_path / "run"), data, 1.0).settle()
    with (tmp_path / "run" / "bad_files.csv").open(newline="") as file:
        ((found, why),) = list(csv.reader(file))[1:]
    assert found.removeprefix("'") == name
    assert not (found + why).startswith(("=", "+", "-", "@"))
    assert why == "'=why"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", {"train/cat": range(3)})
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bad_files.csv").symlink_to(tmp_path / "mine.txt")
    done = command("train", *SETTINGS, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "bad_files.csv" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"


EXACT: dict[str, tuple[str, ...]] = {
    "2 workers, accumulation": ("data.num_workers=2", "trainer.accumulate_grad_batches=2"),
    "two processes": ("data.num_workers=1", "trainer=ddp", "trainer.accelerator=cpu"),
    "no workers, no validation": ("data.num_workers=0", "data.val_fraction=0"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", EXACT)
def test_a_killed_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    bad = {"train/cat": range(0, 60, 7), "train/dog": range(3), "test/cat": range(1)}
    root = pictures(tmp_path / "data", bad, train=60, side=40, pad=2**19)  # more bytes than are decoded at the start
    _widen(root)
    overrides = (*PICTURES, *EXACT[name], f"data.root={root}", "data.max_bad=0.2", "data.batch_size=4")
    assert Killed([*overrides, f"hydra.run.dir={tmp_path / 'whole'}"], tmp_path / "whole").wait() == 0
    assert listed(tmp_path / "whole") == names(root, bad)
    folder = tmp_path / "run"
    killed = Killed([*overrides, f"hydra.run.dir={folder}"], folder)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert killed.signal_after(0, signal.SIGKILL), killed.stderr
    killed.wait()
    said = go_on([*overrides, f"hydra.run.dir={folder}"], folder)
    assert not differences(folder, tmp_path / "whole"), said
    assert listed(folder) == listed(tmp_path / "whole")


def _widen(root: Path) -> None:
    """One image of another size: the set is not kept in memory."""
    path = root / "train" / "dog" / "059.png"
    Image.new("RGB", (90, 90), (150, 160, 170)).save(path)
    with path.open("r+b") as file:
        file.truncate(2**19)


@pytest.mark.faults
def test_several_processes_leave_out_the_same(tmp_path: Path) -> None:
    bad = {"train/cat": range(18), "train/dog": range(16), "test/cat": range(2)}
    root = pictures(tmp_path / "data", bad, pad=2**20)
    call = [
        *SETTINGS,
        f"data.root={root}",
        "data.num_workers=0",
        "data.batch_size=1",
        "data.val_fraction=0.3",
        "trainer=ddp",
        "trainer.accelerator=cpu",
    ]
    done = command("train", *call, "data.max_bad=0.9", f"hydra.run.dir={tmp_path / 'run'}", fresh=True)
    assert done.returncode == 0, done.stderr
    assert listed(tmp_path / "run") == names(root, bad)
    assert results(tmp_path / "run")["data/unreadable"] == 36
    done = command("train", *call, f"hydra.run.dir={tmp_path / 'too many'}", fresh=True)
    assert done.returncode == 2, done.stderr
    assert "images cannot be read, and data.max_bad=0.01 allows 0" in done.stderr
    assert set(listed(tmp_path / "too many")) <= set(names(root, bad))


@pytest.mark.faults
def test_a_mended_picture_goes_from_the_list(tmp_path: Path) -> None:
    """A run that was ended by unreadable images goes on once they are mended."""
    root = pictures(tmp_path / "data", {"train/cat": range(3)}, pad=2**20)
    folder = tmp_path / "run"
    call = [*SETTINGS, f"data.root={root}", f"hydra.run.dir={folder}", "data.max_bad=0.05"]
    done = command("train", *call, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert len(listed(folder)) == 3
    for path in sorted((root / "train" / "dog").iterdir())[:5]:
        broken(path)
    (root / "train" / "cat" / "001.png").write_bytes((root / "train" / "cat" / "005.png").read_bytes())
    (folder / "results.json").unlink()
    done = command("train", *QUIET, "ckpt_path=last", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "train/cat/001.png" not in listed(folder)
    assert "train/cat/000.png" in listed(folder)


def test_predictions_name_what_cannot_be_read(tiny_run: Path, tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", {"train/cat": range(2)}, train=3)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(root / "train" / "cat" / "float.tiff")
    rows = vl.load(tiny_run).predict(sorted((root / "train" / "cat").iterdir()))
    assert [bool(row.error) for row in rows] == [True, True, False, True]
    assert "floating-point" in rows[-1].error

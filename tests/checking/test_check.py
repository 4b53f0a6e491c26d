"""``visionlora.check``: injected faults are found, what is well is not told, and ``data.exclude`` takes the findings back."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET, TINY, command, results
from faults.disks import assert_one_sentence
from PIL import Image
from quickly import quickly

from visionlora import UserError
from visionlora.checking.labels import wrong_classes
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

MODEL = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data.num_workers=0", "data.image_size=32")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of patterns, with one fault of each kind."""
    root, random = tmp_path_factory.mktemp("faulty") / "images", np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 6)):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                small = random.integers(0, 80, (6, 6, 3)) + np.array(colour) - 20
                Image.fromarray(small.clip(0, 255).astype(np.uint8)).resize((48, 48)).save(root / part / name / f"{number}.png")
    red = root / "train/red"
    (red / "0.png").write_bytes((red / "0.png").read_bytes()[:400])
    Image.open(red / "1.png").save(red / "jpeg.png", "JPEG")
    (red / "1.png").unlink()
    Image.new("RGB", (48, 48), (120, 120, 120)).save(red / "2.png")
    shutil.copy(red / "3.png", red / "copy.png")
    shutil.copy(red / "4.png", root / "test/red/leaked.png")
    Image.open(red / "5.png").resize((12, 12)).save(red / "5.png")
    shutil.move(root / "train/blue/7.png", red / "moved.png")
    return root


@pytest.fixture(scope="module")
def checked(faulty: Path) -> Path:
    folder = faulty.parent / "check"
    done = command("check", "data=imagefolder", f"data.root={faulty}", "data.num_workers=0", "data.image_size=64", f"output={folder}")
    assert done.returncode == 0, done.stderr
    assert "unreadable" in done.stdout
    return folder


def test_every_fault_is_told_once_and_nothing_else(checked: Path) -> None:
    with (checked / "findings.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    told = {(row["image"], row["finding"], row["exclude"]) for row in rows if row["finding"] != "label"}
    assert told == {
        ("train/red/0.png", "unreadable", "yes"),
        ("train/red/jpeg.png", "extension", "no"),
        ("train/red/2.png", "blank", "yes"),
        ("train/red/copy.png", "duplicate", "yes"),
        ("train/red/4.png", "in two parts", "yes"),
        ("train/red/5.png", "small", "no"),
    }
    assert "train/red/moved.png" in [row["image"] for row in rows if row["finding"] == "label"]
    page = (checked / "findings.html").read_text()
    assert "in two parts (1)" in page
    assert "train/red/0.png" in page  # unreadable: named, and not shown


def test_what_it_says_yes_to_is_left_out_of_a_training(checked: Path, faulty: Path, tmp_path: Path) -> None:
    words = [word for word in TINY if word not in ("data=fake", *MODEL)]
    words += [*MODEL, *QUIET, "data=imagefolder", f"data.root={faulty}", "trainer.max_epochs=1", f"data.exclude={checked / 'findings.csv'}"]
    done = command("train", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    assert found["data/unreadable"] == 0
    assert found["images/train"] + found["images/val"] == 41 - 4  # 0.png, 2.png, copy.png, 4.png
    assert command("evaluate", f"run={tmp_path / 'run'}", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("name,exclude\nx,yes\n", "it has no column 'image'"),
        ("image,exclude\nof/another.png,yes\n", "names 1 images, none of which the data has"),
        (
            "image\n" + "".join(f"test/{name}/{i}.png\n" for name in ("red", "blue") for i in (*range(6), "leaked")),
            "leaves no image of the test",
        ),
    ],
)
def test_tables_that_cannot_be_taken(text: str | None, message: str, faulty: Path, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        ImageData(DataConfig("imagefolder", str(faulty), exclude=str(tmp_path / "t.csv")))


def test_findings_are_not_overwritten(checked: Path, faulty: Path) -> None:
    before = (checked / "findings.csv").read_bytes()
    done = command("check", *MODEL, "data=imagefolder", f"data.root={faulty}", f"output={checked}")
    assert done.returncode == 2
    assert "has findings already" in done.stderr
    assert (checked / "findings.csv").read_bytes() == before


def test_the_other_way_to_say_it(faulty: Path, tmp_path: Path) -> None:
    done = command("data", f"check={faulty}", "labels=false", f"output={tmp_path / 'out'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/findings.csv").is_file()


def test_classes() -> None:
    told = wrong_classes(["Cat", "cat", "dog"], [100, 100, 3])
    assert "'Cat' and 'cat' differ in writing alone" in told[0]
    assert "'dog' has 3 training images, 'Cat' 100" in told[1]
    assert wrong_classes(["cat", "dog"], [5, 6]) == []


def check_words(root: Path, folder: Path) -> tuple[str, ...]:
    return ("check", *MODEL, "data=imagefolder", f"data.root={root}", f"output={folder}")


@pytest.mark.parametrize("limit", quickly([500, 3000], 1))
def test_onto_a_disk_that_takes_no_more_it_writes_neither_file(limit: int, faulty: Path, tmp_path: Path) -> None:
    """The table fits into 3,000 bytes, and the page does not."""
    done = command(*check_words(faulty, tmp_path / "check"), limit=limit)
    assert_one_sentence(done, "a file would be larger than is allowed here (ulimit -f)", "findings")
    assert not (tmp_path / "check").exists()
    assert command(*check_words(faulty, tmp_path / "check")).returncode == 0
    before = (tmp_path / "check/findings.csv").read_bytes()
    done = command(*check_words(faulty, tmp_path / "check"), "overwrite=true", limit=limit)
    assert_one_sentence(done, "ulimit -f")
    assert sorted(path.name for path in (tmp_path / "check").iterdir()) == ["findings.csv", "findings.html"]
    assert (tmp_path / "check/findings.csv").read_bytes() == before


@pytest.mark.faults
@pytest.mark.parametrize("step", ["looks", "files", "labels"])
def test_interrupted_it_leaves_nothing_and_says_so(step: str, faulty: Path, tmp_path: Path) -> None:
    """Ctrl-C while files are opened, while copies are looked for, and while the backbone sees the images."""
    where = {"files": "wrong_files", "looks": "wrong_looks", "labels": "wrong_labels"}[step]
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.format(where=where, words=list(check_words(faulty, tmp_path / "check"))[1:]))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "interrupted."
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "check").exists()


INTERRUPTED = """
import os, signal, sys, threading, time
from visionlora.checking import run
from visionlora.check import main
from visionlora.evaluation import probe

step = run.{where}

def interrupted(*given):
    if "{where}" == "wrong_labels":
        seen = probe._HeadInputs.predict_step
        def one(*batch):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            return seen(*batch)
        probe._HeadInputs.predict_step = one
        return step(*given)
    threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    found = step(*given)
    time.sleep(5)
    return found

run.{where} = interrupted
sys.argv = ["visionlora.check", *{words}]
main()
"""

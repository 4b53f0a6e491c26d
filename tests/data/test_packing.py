"""``visionlora.pack``: shards that read back as what was packed, whole or not at all, and go on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import placed
import pytest
from conftest import command
from faults.disks import assert_one_sentence
from PIL import Image
from quickly import quickly
from tasks.tables import coloured

from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

Folders = Callable[..., Path]
PARTS = {"train": {"cat": 7, "dog": 7}, "test": {"cat": 2, "dog": 2}}


def data(name: str, root: Path, task: str = "classify", **keys: object) -> ImageData:
    return ImageData(DataConfig(name, str(root), val_fraction=0.0, **keys), task=task)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def packed(class_folders: Folders, tmp_path: Path) -> tuple[Path, Path]:
    """Class folders, and their shards of four images."""
    root = class_folders(**PARTS)
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={tmp_path / 'shards'}", "images=4")
    assert done.returncode == 0, done.stderr
    assert "18 images (14 of train, 4 of test)" in done.stdout
    return root, tmp_path / "shards"


def test_what_is_read_back_is_what_was_packed(packed: tuple[Path, Path]) -> None:
    folder, shards = data("imagefolder", packed[0]), data("webdataset", packed[1])
    assert shards.classes == folder.classes
    for part, images in folder.parts.items():
        assert shards.parts[part].labels == images.labels
        assert all(np.array_equal(np.asarray(shards.parts[part].open(i, 3)), np.asarray(images.open(i, 3))) for i in range(len(images)))
    assert sorted(json.loads((packed[1] / "shards.json").read_text())["shards"]) == [
        "test/000000.tar", "train/000000.tar", "train/000001.tar", "train/000002.tar", "train/000003.tar",
    ]  # fmt: skip


@pytest.mark.parametrize("names", [True, False])
def test_classes_that_are_named_as_numbers_keep_their_labels(names: bool, class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"10": 3, "2": 3, "1": 3})
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={tmp_path / 'shards'}")
    assert done.returncode == 0, done.stderr
    if names:
        (tmp_path / "shards/classes.txt").write_text("1\n10\n2\n")
    first, second = data("imagefolder", root, test_fraction=0.0), data("webdataset", tmp_path / "shards", test_fraction=0.0)
    assert second.classes == first.classes == ["1", "10", "2"]
    assert second.parts["train"].labels == first.parts["train"].labels


def test_a_packing_goes_on_and_mends(packed: tuple[Path, Path]) -> None:
    root, shards = packed
    before = contents(shards)
    (shards / "train/000001.tar").unlink()
    (shards / "train/000002.tar").write_bytes(b"damaged")
    kept = (shards / "train/000000.tar").stat().st_mtime_ns
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={shards}", "images=4")
    assert done.returncode == 0, done.stderr
    assert contents(shards) == before
    assert (shards / "train/000000.tar").stat().st_mtime_ns == kept


def many(root: Path, count: int = 60) -> Path:
    """Class folders of noise, which does not become small."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"train/{('cat', 'dog')[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")
    return root


@pytest.mark.faults
def test_interrupted_it_leaves_whole_shards_and_goes_on(tmp_path: Path) -> None:
    root = many(tmp_path / "images", 300)
    words = ("data=imagefolder", f"data.root={root}", "images=1")
    call = [sys.executable, "-m", "visionlora.pack", *words, f"output={tmp_path / 'cut'}"]
    process = subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut/train/000003.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert re.fullmatch(r"interrupted; \d+ of 300 shards are written, and the same command goes on\.", errors.strip()), errors
    left = contents(tmp_path / "cut")
    assert not [name for name in left if name.endswith(".part")]
    for folder in ("cut", "whole"):
        done = command("pack", *words, f"output={tmp_path / folder}")
        assert done.returncode == 0, done.stderr
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "cut") == whole
    assert all(whole[name] == content for name, content in left.items() if name != "shards.json")


@pytest.mark.parametrize("limit", quickly([300, 4_000, 25_000], 1, pytest.mark.faults))
def test_onto_a_disk_that_takes_no_more(limit: int, tmp_path: Path) -> None:
    """Not even the list, no shard, some shards."""
    root = many(tmp_path / "images")
    extra = root / "train/dog/999.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)).save(extra)
    words = ("data=imagefolder", f"data.root={root}", "images=2")
    done = command("pack", *words, f"output={tmp_path / 'cut'}", limit=limit)
    assert_one_sentence(done, "a file would be larger than is allowed here (ulimit -f)", str(tmp_path / "cut"))
    left = contents(tmp_path / "cut") if (tmp_path / "cut").exists() else {}
    assert len(left) == (31 if limit == 25_000 else 0)  # all but the last shard, and the list
    assert (tmp_path / "cut").exists() == bool(left)
    for folder in ("cut", "whole"):
        assert command("pack", *words, f"output={tmp_path / folder}").returncode == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_what_a_killed_packing_leaves_is_taken_away(packed: tuple[Path, Path], tmp_path: Path) -> None:
    root, shards = packed
    for folder in (shards, tmp_path / "begun"):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        (folder / f"train/.000001.tar.{'0' * 16}.part").write_bytes(b"half")
    for folder in (shards, tmp_path / "begun"):
        done = command("pack", "data=imagefolder", f"data.root={root}", f"output={folder}", "images=4")
        assert done.returncode == 0, done.stderr
    assert contents(shards) == contents(tmp_path / "begun")
    others = tmp_path / "others"
    (others / "train").mkdir(parents=True)
    (others / "train/000000.tar").write_bytes(b"somebody's")
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={others}", "images=4")
    assert_one_sentence(done, "is not empty")
    assert contents(others) == {"train/000000.tar": b"somebody's"}


def test_shards_of_others_are_left_alone(packed: tuple[Path, Path], class_folders: Folders, tmp_path: Path) -> None:
    root, shards = packed
    before = contents(shards)
    class_folders(root, train={"cat": 9, "dog": 7})
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={shards}", "images=4")
    assert (done.returncode, "has shards of other images" in done.stderr) == (2, True)
    assert contents(shards) == before
    done = command("pack", "data=imagefolder", f"data.root={root}", f"output={root}")
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)


@pytest.mark.parametrize(("task", "label"), [("multilabel", ["labels"]), ("regression", ["bright", "warm"])])
def test_labels_and_numbers(task: str, label: list[str], tmp_path: Path) -> None:
    table = coloured(tmp_path / "data", 40)
    columns = f"data.label=[{','.join(label)}]"
    done = command("pack", f"task={task}", "data=table", f"data.root={table}", columns, f"output={tmp_path / 'shards'}")
    assert done.returncode == 0, done.stderr
    first = data("table", table, task, label=label)
    second = data("webdataset", tmp_path / "shards", task, label=label)
    assert second.classes == first.classes
    assert {part: images.labels for part, images in second.parts.items()} == {part: images.labels for part, images in first.parts.items()}


def test_the_other_way_to_say_it(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(**PARTS)
    done = command("data", f"pack={root}", f"out={tmp_path / 'shards'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shards/train/000000.tar").is_file()


def test_groups_and_weights_are_kept(tmp_path: Path) -> None:
    """So that images of one patient stay in one part of the shards too."""
    table = coloured(tmp_path / "data", 40)
    rows = [line.split(",") for line in table.read_text().splitlines()]
    kept = [[row[1], row[2].partition("|")[0] or "none", f"patient{i // 5}", str(1 + i % 3)] for i, row in enumerate(rows[1:])]
    table.write_text("\n".join(",".join(row) for row in [["image", "label", "group", "weight"], *kept]))
    done = command("pack", "data=table", f"data.root={table}", f"output={tmp_path / 'shards'}", "images=7")
    assert done.returncode == 0, done.stderr
    first, second = data("table", table), data("webdataset", tmp_path / "shards")
    for part, images in second.parts.items():
        assert sorted(zip(images.groups, images.weights, images.labels, strict=True)) == sorted(
            zip(first.parts[part].groups, first.parts[part].weights, first.parts[part].labels, strict=True)
        )
    groups = [set(images.groups) for images in second.parts.values()]
    assert len(set().union(*groups)) == sum(map(len, groups)) == 8


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_what_has_no_text_is_not_packed(task: str, tmp_path: Path) -> None:
    source, write = {"detect": ("voc", placed.write_voc), "segment": ("masks", placed.write_masks)}[task]
    root = write(tmp_path / "data", {"train": 4, "test": 2})
    done = command("pack", f"task={task}", f"data={source}", f"data.root={root}", f"output={tmp_path / 'shards'}")
    assert_one_sentence(done, "visionlora.pack is for task=classify")
    assert not (tmp_path / "shards").exists()

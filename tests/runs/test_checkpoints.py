"""Checkpoints are known when they are damaged, and a resume falls back to the one before, says so, and ends as the uninterrupted run."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, command, results
from quickly import quickly

from visionlora.common.errors import UserError
from visionlora.runs import checkpoints
from visionlora.runs.checkpoint_io import PlacedCheckpoint, read_checkpoint
from visionlora.runs.checkpoints import damage, sealed, write_checkpoint
from visionlora.runs.folder import RunFolder

EPOCHS = "trainer.max_epochs=4"
RUN = (*TINY, *QUIET, "trainer=cpu", "data.num_images=64", "data.val_fraction=0.25", "data.batch_size=16")


def archive(value: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.full((1000,), value), "global_step": 3}, buffer)
    return buffer.getvalue()


def harmed(whole: bytes) -> Iterator[bytes]:
    """A file with a flipped bit, a cut or a byte too many, 100 of each."""
    draw = random.Random(0)
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        yield from (bytes(flipped), whole[: draw.randrange(len(whole))], whole + draw.randbytes(1))


def test_every_kind_of_damage_is_seen(tmp_path: Path) -> None:
    path, whole = tmp_path / "last.ckpt", sealed(archive())
    path.write_bytes(whole)
    assert not damage(path)
    assert torch.load(path, weights_only=True)["a"].sum() == 1000
    for position in range(len(whole) - 100, len(whole)):  # the end of the archive and its seal
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert damage(path)
    for content in harmed(whole):
        path.write_bytes(content)
        assert damage(path)
        with pytest.raises(UserError, match="is damaged or not a checkpoint"):
            read_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_is_refused_or_read_right(tmp_path: Path) -> None:
    path, refused = tmp_path / "last.ckpt", 0
    for content in harmed(archive()):
        path.write_bytes(content)
        try:
            assert read_checkpoint(path)["a"].sum() == 1000
        except UserError:
            refused += 1
    assert refused > 150


def test_the_one_before_stands_until_the_new_one_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for value in (1.0, 2.0, 3.0):
        write_checkpoint(last, archive(value), previous)
    assert [read_checkpoint(path)["a"][0] for path in (last, previous)] == [3.0, 2.0]
    monkeypatch.setattr(checkpoints, "damage", lambda path: "its bytes are not those that were written")
    with pytest.raises(UserError, match="the disk may be failing"):
        write_checkpoint(last, archive(4.0), previous)
    assert [read_checkpoint(path)["a"][0] for path in (last, previous)] == [3.0, 2.0]
    assert len(list(tmp_path.iterdir())) == 2


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for value in (1.0, 2.0):
        write_checkpoint(last, archive(value), previous)
    assert [read_checkpoint(path)["a"][0] for path in (last, previous)] == [2.0, 1.0]


def test_the_state_of_a_moved_run_goes_by_names(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "best.ckpt").touch()
    before = PlacedCheckpoint(dirpath=tmp_path / "old", filename="best", monitor="val/top1", mode="max")
    path = str(tmp_path / "old" / "best.ckpt")
    before.best_model_path = before.kth_best_model_path = path
    before.best_model_score = before.kth_value = torch.tensor(0.75)
    before.best_k_models = {path: torch.tensor(0.75)}
    assert str(tmp_path) not in str(before.state_dict())
    absolute = super(PlacedCheckpoint, before).state_dict()  # as earlier versions wrote it
    for state in (before.state_dict(), absolute):
        after = PlacedCheckpoint(dirpath=tmp_path / "new", filename="best", monitor="val/top1", mode="max")
        assert after.state_key == before.state_key
        assert after.state_key.startswith("ModelCheckpoint{")
        after.load_state_dict(state)
        assert after.best_model_score == 0.75
        assert after.best_model_path == str(tmp_path / "new" / "best.ckpt")
    gone = PlacedCheckpoint(dirpath=tmp_path / "elsewhere", filename="best", monitor="val/top1", mode="max")
    gone.load_state_dict(before.state_dict())
    assert gone.best_model_score is None  # or no epoch could be better than a file that is not there


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run, and the same one as it was after two of its four epochs."""
    root = tmp_path_factory.mktemp("stopped")
    whole, part = root / "whole", root / "part"
    for folder, more in ((whole, []), (part, ["+callbacks.stop._target_=runs.stopping.StopAfter", "+callbacks.stop.epochs=2"])):
        done = command("train", *RUN, EPOCHS, f"hydra.run.dir={folder}", *more)
        assert done.returncode in (0, 130), done.stderr
    assert not (part / "results.json").exists()
    return whole, part


def learnt(path: Path) -> str:
    return str({key: value for key, value in torch.load(path, weights_only=True).items() if key in ("epoch", "state_dict")})


def same_end(folder: Path, whole: Path) -> None:
    for name in ("best", "last"):
        assert learnt(folder / "checkpoints" / f"{name}.ckpt") == learnt(whole / "checkpoints" / f"{name}.ckpt")
    assert results(folder)["test/loss"] == results(whole)["test/loss"]
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()


CASES = {
    "last flipped": ("last.ckpt", "going on from the checkpoint before it, previous.ckpt", True),
    "best flipped": ("best.ckpt", "best.ckpt is damaged", False),
    "nothing good": ("last.ckpt previous.ckpt", "holds no checkpoint that is whole", None),
    "moved": ("", "", True),
    "last empty": ("last.ckpt=", "going on from the checkpoint before it, previous.ckpt", True),
    "last missing": ("-last.ckpt", "", True),
    "best missing": ("-best.ckpt", "best.ckpt is missing: the best of the epochs to come takes its place", False),
}


@pytest.mark.parametrize("case", quickly(CASES, 3))
def test_going_on_with_damaged_and_moved_runs(case: str, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    whole, part = stopped
    folder = tmp_path / "moved"
    shutil.copytree(part, folder)
    harm, said, same = CASES[case]
    for word in harm.split():
        path = folder / "checkpoints" / word.strip("-=")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.unlink()  # it may be the same file as another one
        if not word.startswith("-"):
            path.write_bytes(b"" if word.endswith("=") else content)
    done = command("train", "ckpt_path=last", f"hydra.run.dir={folder}", *QUIET)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    assert done.returncode == (2 if same is None else 0)
    if same:
        same_end(folder, whole)
    elif same is not None:
        assert not damage(RunFolder(folder).best)
        assert json.loads((folder / "results.json").read_text())["checkpoint"] == "best"


@pytest.mark.faults
def test_the_temporary_folder_may_be_on_another_disk(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    code = (
        "import torch, sys; from pathlib import Path; from visionlora.runs.folder import RunFolder\n"
        "from visionlora.runs.checkpoint_io import RunCheckpoints\n"
        "run = RunFolder(sys.argv[1]); io = RunCheckpoints(run)\n"
        "for i in range(3): io.save_checkpoint({'i': i}, run.last)\n"
        "print(io.load_checkpoint(run.last), io.load_checkpoint(run.previous))"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(elsewhere)})
    assert done.stdout.strip() == "{'i': 2} {'i': 1}", done.stderr

"""All formats are written, or none; what is in the way is told before anything is written; what a killed try left is no hindrance."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, contents, files_below
from torch import nn

import visionlora as vl
from visionlora.common.errors import UserError
from visionlora.exporting import formats, writing
from visionlora.exporting.places import put_in_place, workplace


def everything(folder: Path) -> dict[str, list[bytes]]:
    return {str(path.relative_to(folder)): list(contents(path)) for path in files_below(folder)}


def assert_refused(run: Path, out: Path, message: str, *words: str) -> None:
    """The command ends with one sentence, and ``out`` is as it was."""
    before, there = everything(out) if out.is_dir() else {}, out.exists()
    done = command("export", f"run={run}", f"output={out}", *words)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert out.exists() == there
    assert (everything(out) if out.is_dir() else {}) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("format=[state_dict,onx]",), "format=onx is unknown"),
        (("format=[]",), "names no format"),
        (("format=[state_dict,torchvision]",), "the model is timm/test_resnet; take format=timm"),
        (("format=state_dict,onx",), "is a list, which has brackets"),
    ],
)
def test_every_format_is_checked_first(words: tuple[str, ...], message: str, tiny_run: Path, tmp_path: Path) -> None:
    assert_refused(tiny_run, tmp_path / "new" / "out", message, *words)
    assert not list(tmp_path.iterdir())


def test_a_format_twice_is_written_once(tiny_run: Path, tmp_path: Path) -> None:
    done = command("export", f"run={tiny_run}", f"output={tmp_path}", "format=[state_dict,state_dict]")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["state_dict"]


def test_what_is_in_the_way_of_the_last_one(tiny_run: Path, tmp_path: Path) -> None:
    both = "format=[timm,state_dict]"
    (tmp_path / "state_dict").write_text("somebody's")
    assert_refused(tiny_run, tmp_path, "state_dict is a file where a folder has to be", both)
    assert_refused(tiny_run, tmp_path, "state_dict is a file where a folder has to be", both, "overwrite=true")
    assert_refused(tiny_run, tmp_path / "state_dict", "is a file where a folder has to be", both)
    assert_refused(tiny_run, tmp_path / "state_dict" / "below", "is a file where a folder has to be", both)
    (tmp_path / "state_dict").unlink()
    (tmp_path / "state_dict").symlink_to(tmp_path)
    assert_refused(tiny_run, tmp_path, "is a symbolic link", both, "overwrite=true")
    (tmp_path / "state_dict").unlink()
    (tmp_path / "state_dict").mkdir()
    (tmp_path / "state_dict" / "mine.txt").write_text("somebody's")
    assert_refused(tiny_run, tmp_path, "state_dict is there already; overwrite=true replaces it", both)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UserError, match=rf'format=onnx needs the package {package}; install it with: pip install "visionlora\[onnx\]"'):
        writing.check_places(["state_dict", "onnx"], tmp_path / "out", overwrite=False)


def test_a_format_that_fails_late_leaves_the_exports_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.ones(2, 3, 2, 2)
    vl.export(model, example, ["state_dict", "pt2"], folder=tmp_path)
    before = everything(tmp_path)

    def fail(*given: Any) -> None:
        raise RuntimeError("something\nelse")

    monkeypatch.setitem(formats.FORMATS, "pt2", formats.FORMATS["pt2"]._replace(write=fail))
    with pytest.raises(UserError, match="format=pt2 cannot hold this Sequential, nothing was written: something else"):
        vl.export(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), example, ["state_dict", "pt2"], folder=tmp_path, overwrite=True)
    assert everything(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["pt2", "state_dict"]


def test_a_move_that_fails_is_taken_back(tmp_path: Path) -> None:
    """Of three, the second replaces one that is there, and the third is gone."""
    whole, folder, before = tmp_path / "whole", tmp_path / "folder", tmp_path / "before"
    for path, text in ((whole / "a", "new a"), (whole / "b", "new b"), (folder / "b", "old b")):
        path.mkdir(parents=True)
        (path / "file").write_text(text)
    before.mkdir()
    parts = [whole / name for name in ("a", "b", "c")]
    with pytest.raises(FileNotFoundError):
        put_in_place(parts, folder, before)
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in files_below(tmp_path)} == {
        "whole/a/file": "new a",
        "whole/b/file": "new b",
        "folder/b/file": "old b",
    }


def _killed(folder: Path) -> None:
    with workplace(folder) as place:
        (place / "half").mkdir()
        (place / "half" / "model.onnx").write_bytes(b"half")
        (folder / "begun").touch()
        time.sleep(60)


def test_what_a_killed_export_left(tiny_run: Path, tmp_path: Path) -> None:
    """It keeps others out while it lives; killed, it is no hindrance, and what it left goes."""
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(out,))
    process.start()
    while not (out / "begun").exists():
        time.sleep(0.01)
    (out / "begun").unlink()
    assert_refused(tiny_run, out, "another process writes an export here", "format=state_dict")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert any(path.name == "model.onnx" for path in files_below(out))
    (out / "state_dict").mkdir()  # empty: of an attempt by other means
    done = command("export", f"run={tiny_run}", f"output={out}", "format=state_dict")
    assert done.returncode == 0, done.stderr
    assert os.listdir(out) == ["state_dict"]
    assert sorted(os.listdir(out / "state_dict")) == ["README.md", "model.safetensors", "preprocessing.json"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="whoever runs it may write everywhere")
def test_a_folder_that_cannot_be_written(tiny_run: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_refused(tiny_run, tmp_path / "out", "permission denied")
    assert_refused(tiny_run, tmp_path, "permission denied")
    with pytest.raises(UserError, match="permission denied"):
        vl.export(nn.Flatten(), torch.ones(2, 1, 1, 3), "pt2", folder=tmp_path / "out")
    tmp_path.chmod(0o700)

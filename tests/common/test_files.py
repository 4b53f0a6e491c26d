"""Files appear whole or not at all, with ordinary permissions, and stay inside their folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside, inside, remove_parts, replace_file


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failure_leaves_the_file_before_and_nothing_else(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    replace_file(file, b"before")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, b"after")
    monkeypatch.undo()
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_the_names_of_new_files_cannot_be_guessed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", "file.part", ".file.part"):
        (folder / name).symlink_to(outside)
    replace_file(folder / "file", b"new")
    assert outside.read_text() == "mine"
    assert not (folder / "file").is_symlink()


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "gone" / "file", b"")
    with pytest.raises(FileNotFoundError):
        folder_inside(tmp_path / "gone", "checkpoints")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", [inside, folder_inside])
@pytest.mark.parametrize("link", ["a", "a/b"])
def test_links_below_a_folder_are_refused(where: Callable[..., Path], link: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="symbolic link"):
        where(root, "a", "b")
    (tmp_path / "named").symlink_to(root)  # the folder itself may be reached as the user likes
    assert inside(tmp_path / "named", "c") == tmp_path / "named" / "c"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = [".last.ckpt.0123456789abcdef.part", "mine.part", ".hidden"]
    for name in names:
        (tmp_path / name).touch()
    remove_parts(tmp_path, tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])

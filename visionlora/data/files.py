"""Files below a folder: which of them are images, and which are there."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.data.opening import extensions


class FilesBelow(Sequence[Path]):
    """Paths of files below a folder, made when they are asked for: millions of them would take gigabytes.

    Args:
        root: the folder.
        names: paths below it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return FilesBelow(self.root, self.names[index]) if isinstance(index, slice) else self.root / self.names[index]

    def subset(self, indices: Sequence[int]) -> FilesBelow:
        """The paths at ``indices``."""
        return FilesBelow(self.root, [self.names[i] for i in indices])

    def missing(self) -> list[str]:
        """Names of those that are no files. Every folder is listed once, which is many times as fast as asking for each file."""
        known: dict[str, set[str]] = {}
        found = []
        for name in self.names:
            folder, _, last = name.rpartition("/")
            if folder not in known:
                known[folder] = files_in(self.root / folder)
            if last not in known[folder]:
                found.append(name)
        return found


def files_in(folder: Path) -> set[str]:
    """Names of the files in a folder; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


class OtherFiles(Counter[str]):
    """Counts the files that are not looked at, by their endings. Called with a path, it says whether the file is an image, and counts
    it if not.
    """

    def __call__(self, path: str | Path) -> bool:
        name = Path(path).name
        ending = Path(name).suffix.lower()
        if ending in extensions() and not name.startswith("."):  # such as the ._cat.jpg that macOS puts into archives
            return True
        self["hidden" if name.startswith(".") else ending or "without an ending"] += 1
        return False

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {ending}" for ending, count in self.most_common())

    def tell(self, where: str) -> None:
        """Say in one line what is left out, if anything is."""
        if self and not process_rank():
            print(f"{where}: files that are no images, or of a format that is not read, are left out: {self}.", file=sys.stderr)


def find_images(path: str | Path, key: str = "input") -> list[Path]:
    """The image itself, or every image below a folder, sorted; a line says what else is there.

    Args:
        path: a file or a folder.
        key: of the config, for the message.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{key}={path}: there is no such file or folder.")
    is_picture = OtherFiles()
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and is_picture(p)]
    if not found:
        raise UserError(f"{key}={path}: no images below this folder{f' ({is_picture} are none)' * bool(is_picture)}.")
    is_picture.tell(f"{key}={path}")
    return found

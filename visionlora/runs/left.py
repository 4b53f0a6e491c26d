"""What ``predict`` leaves beside its table where answers lie in the images: masks, images with what is seen, and one file of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside, inside, replace_file


class Left:
    """Files in the folder that has the table's name without its ending, for several runs in a folder each below it.

    Args:
        output: the table.
        overwrite: files of an earlier call may be replaced.
        several: there is more than one run.

    Raises:
        UserError: the folder is there, and may not be used.
    """

    def __init__(self, output: Path, overwrite: bool, several: bool = False) -> None:
        self.folder, self.several = output.with_suffix(""), several
        if self.folder.exists() and (not overwrite or not self.folder.is_dir()):
            raise UserError(f"{self.folder}, where the images go, is there already; name another output=FILE, or set overwrite=true.")
        self.names: Counter[str] = Counter()
        self.entries: dict[str, list[Mapping[str, Any]]] = {}
        self.kind: Any = None

    def taken(self, run: str, prediction: Any) -> Any:
        """Write the files of a prediction of a run; what is kept of it for the table."""
        self.kind = type(prediction)
        stem = Path(prediction.path).stem if not prediction.path.startswith("#") else prediction.path[1:]
        self.names[f"{run}/{stem}"] += 1
        number = self.names[f"{run}/{stem}"]
        kept, entry = prediction.left(self._folder(run), stem if number == 1 else f"{stem}_{number}")
        self.entries.setdefault(run, []).append(entry)
        return kept

    def finish(self, names: Sequence[str]) -> None:
        """Write the file with all answers; ``names`` are those of the classes."""
        for run, entries in self.entries.items():
            name, content = self.kind.summary(entries, names)
            replace_file(inside(self._folder(run), name), json.dumps(content).encode())
        print(f"images with what is seen in them: {self.folder}")

    def _folder(self, run: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return folder_inside(self.folder, "_".join(Path(run).parts[-2:]).strip("/")) if self.several else self.folder

"""Masks of images, named in the cells of a table. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionlora.tasks.cells import Cells
from visionlora.tasks.segment.mask_classes import known_classes
from visionlora.tasks.segment.mask_file import MaskFile


def masks_of(cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
    """Names of the classes, from ``classes.txt`` beside the table or by the numbers in the masks, and by part the mask of each row.

    Raises:
        UserError: a cell is empty, or names no file; or see ``known_classes``.
    """
    folder, paths = Path(cells.file).parent, dict[str, list[Path]]()
    for part, rows in cells.parts.items():
        paths[part] = []
        for row, cell in enumerate(rows):
            path = folder / cell[0].strip()
            if not cell[0].strip() or not path.is_file():
                why = f"the mask {cell[0].strip()} is not there" if cell[0].strip() else "it is empty, where the path of a mask is needed"
                raise cells.refuse(part, row, 0, why)
            paths[part].append(path)
    names, numbering = known_classes(folder, [path for found in paths.values() for path in found])
    return names, {part: [MaskFile(str(path), numbering) for path in found] for part, found in paths.items()}

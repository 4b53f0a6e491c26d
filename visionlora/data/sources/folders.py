"""Class folders as they lie on the disk, looked at before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

from visionlora.common.errors import UserError

PARTS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision takes for an image; a test compares them."""
PACKED = (".zip", ".tar")
"""Archives that are read as they are."""
SQUEEZED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Others."""
_NEAR = ("val", "test", "dev", "eval")


def is_archive(root: Path) -> bool:
    """Whether it is a file that is named as an archive."""
    return root.suffix.lower() in (*PACKED, *SQUEEZED) and root.is_file()


def part_folders(root: Path, name: str) -> dict[str, Path]:
    """The folders of the parts below ``root``: ``train``, ``val``, ``test``, or ``root`` itself as ``train``.

    Raises:
        UserError: no folder, no class folders in it, one class only, or a folder whose name is nearly that of a part.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "is not there"
        raise UserError(f"data.root={root} {what}; give data.root=DIR with DIR/train/CLASS/* or DIR/CLASS/*.")
    folders = {part: root / part for part in PARTS if (root / part).is_dir()}
    if "train" in folders:
        misnamed = [
            path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name not in PARTS and path.name.startswith(_NEAR)
        ]
        if misnamed:
            raise UserError(f"{root / misnamed[0]} beside train is not read: the folders are named {', '.join(PARTS)}; rename or move it.")
    elif folders:
        raise UserError(f"{root} has {' and '.join(folders)} but no train folder.")
    else:
        folders = {"train": root}
    classes = class_names(folders["train"])
    if not classes:
        raise UserError(_without_classes(folders["train"], name))
    if len(classes) == 1:
        raise UserError(
            f"{folders['train']} has one class folder only ({classes[0]!r}); a classifier needs two: data={name} reads DIR/train/CLASS/* or"
            " DIR/CLASS/*."
        )
    return folders


def class_names(folder: Path, levels: int = 1) -> list[str]:
    """The class folders in it, sorted; of several levels ``CLASS/SUBCLASS``.

    Raises:
        UserError: with several levels, a folder above the last has no class folders, or has images of its own.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))
    if levels == 1:
        return names
    found = []
    for name in names:
        below = class_names(folder / name, levels - 1)
        own = next((path.name for path in (folder / name).iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES), None)
        if own is not None or not below:
            what = f"has images of its own, {own} for one" if own is not None else "has no class folders"
            raise UserError(f"data.levels={levels}: {folder / name} {what}; the images of every class lie in a folder of the last level.")
        found += [f"{name}/{each}" for each in below]
    return found


def _without_classes(folder: Path, name: str) -> str:
    with os.scandir(folder) as entries:
        pictures = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
    if not pictures:
        return f"{folder} is empty: it has no class folders (data={name} reads DIR/train/CLASS/* or DIR/CLASS/*)."
    above = folder.absolute().parent
    root = above.parent if above.name in PARTS else above
    classes = class_names(above)
    there = f"holds {pictures} images but no class folders"
    if above.name in PARTS and len(classes) > 1:
        shown = os.path.relpath(root) if not folder.is_absolute() else str(root)
        return f"data.root={folder} {there}: it is one class of {above.name}; write data.root={shown}."
    return f"data.root={folder} {there}; move each class's images into a folder of its own: {folder}/CLASS/*."

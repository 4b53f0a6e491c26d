"""Class folders in an archive, read without unpacking it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from visionlora.common.errors import UserError
from visionlora.data.files import OtherFiles
from visionlora.data.images import Images
from visionlora.data.sources.folders import PARTS
from visionlora.data.stores import opened


def packed_folders(path: Path, levels: int = 1) -> tuple[list[str], dict[str, Images]]:
    """The classes and the parts of ``{train,val,test}/CLASS/*`` or ``CLASS/*`` in a zip or tar archive, which may have a folder around it.

    Args:
        path: of the archive.
        levels: of class folders.

    Raises:
        UserError: no class folders, one class only, parts with different classes.
    """
    store, names = opened(path)
    is_picture = OtherFiles()
    inside = [name for name in names if "__MACOSX" not in name and is_picture(name)]
    where = {name: PurePosixPath(name).parts for name in inside}
    while where and len({parts[0] for parts in where.values()}) == 1 and all(len(parts) > 2 for parts in where.values()):
        if next(iter(where.values()))[0] in PARTS:
            break
        where = {name: parts[1:] for name, parts in where.items()}
    in_parts = any(parts[0] == "train" and len(parts) > 2 for parts in where.values())
    found: dict[str, dict[str, list[str]]] = {}
    for name, parts in where.items():
        part, rest = (parts[0], parts[1:]) if in_parts else ("train", parts)
        if part in PARTS and len(rest) > 1:
            if len(rest) <= levels:
                raise UserError(f"data.levels={levels}: {name} in {path} does not lie in a folder of the last level.")
            found.setdefault(part, {}).setdefault("/".join(rest[:levels]), []).append(name)
    classes = sorted(found.get("train", {}))
    if len(classes) < 2:
        what = f"one class folder only ({classes[0]!r})" if classes else "no class folders with images"
        raise UserError(f"data.root={path} has {what}; it needs train/CLASS/* or CLASS/* of two classes and more.")
    images = {}
    for part, groups in found.items():
        differ = sorted(set(groups) ^ set(classes))
        if differ:
            raise UserError(f"the classes of train and {part} in {path} differ: {', '.join(differ[:5])} is in one of them only.")
        labelled = [(name, number) for number, group in enumerate(classes) for name in sorted(groups[group])]
        images[part] = Images([label for _, label in labelled], [name for name, _ in labelled], store=store)
    is_picture.tell(f"data.root={path}")
    return classes, images

"""``data=imagefolder``: a folder for each class."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets.folder import make_dataset

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.files import OtherFiles
from visionlora.data.images import Images
from visionlora.data.sources.archives import packed_folders
from visionlora.data.sources.folders import class_names, is_archive, part_folders
from visionlora.data.sources.source import Source


def image_folder(config: DataConfig) -> Source:
    """``root/{train,val,test}/CLASS/*``, or ``root/CLASS/*``, which is all train; the same in a zip or tar archive."""
    root = Path(config.root)
    if is_archive(root):
        classes, parts = packed_folders(root, config.levels)
        return Source(classes, _held_out_tests(parts))
    return class_folders(root, config.name, config.levels)


def class_folders(root: Path, name: str, levels: int = 1) -> Source:
    """Read class folders; the classes are the sorted folder names, of ``levels`` levels (``CLASS/SUBCLASS``), the same in every part.

    Raises:
        UserError: no folder, no images, a class without images, or parts with different classes.
    """
    folders = part_folders(root, name)
    classes = class_names(folders["train"], levels)
    parts, is_picture = {}, OtherFiles()
    for part, folder in folders.items():
        differ = sorted(set(class_names(folder, levels)) ^ set(classes))
        if differ:
            raise UserError(f"the classes of {folders['train']} and {folder} differ: {', '.join(differ[:5])} is in one of them only.")
        samples = make_dataset(str(folder), {c: i for i, c in enumerate(classes)}, is_valid_file=is_picture, allow_empty=True)
        labels = [label for _, label in samples]
        with_pictures = set(labels)
        bare = [c for i, c in enumerate(classes) if i not in with_pictures]
        if bare:
            what = "has no images" if samples else f"and every other class of {folder} have no images"
            raise UserError(f"the class folder {folder / bare[0]} {what} that can be read{f' ({is_picture} are none)' * bool(is_picture)}.")
        paths = [Path(path) for path, _ in samples]
        parts[part] = Images(labels, [path.relative_to(root).as_posix() for path in paths], paths)
    is_picture.tell(f"data.root={root}")
    return Source(classes, _held_out_tests(parts))


def _held_out_tests(parts: dict[str, Images]) -> dict[str, Images]:
    """The one held-out folder gives the final figure; the checkpoint is chosen on images split off train."""
    return parts if "test" in parts or "val" not in parts else {"test" if part == "val" else part: images for part, images in parts.items()}

"""``data=masks``: images and masks of the same names, whose pixels are the numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from visionlora.common.errors import UnreadableError, UserError
from visionlora.data.config import DataConfig
from visionlora.data.first_look import CHECKED
from visionlora.data.images import Images
from visionlora.data.sources.lists import HELD_OUT, of_held_out, of_lists
from visionlora.data.sources.pairs import PartPairs, pairs, part_roots
from visionlora.data.sources.source import Source
from visionlora.tasks.segment.mask_classes import known_classes
from visionlora.tasks.segment.mask_file import MaskFile

FOLDERS = [
    *((images, masks) for images in ("images", "imgs") for masks in ("masks", "labels", "annotations")),
    *(("JPEGImages", masks) for masks in ("SegmentationClass", "SegmentationClassPNG")),
]
"""What the folders of images and masks may be called; the last are Pascal VOC's and labelme's."""
BESIDE = ("_masks", "_labels", "annot")
"""What a folder of masks may be called after the name of its part, whose images lie in the folder of that name; the last is SegNet's."""
ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp")
"""Of masks: formats that keep every value as it is."""
SUFFIXES = ("", "_mask", "_masks", "_L", "_gt", "_label", "_labels", "-mask", "_P", "_gtFine_labelIds", "_gtFine_labelTrainIds")
"""What may stand between the name of an image and the ending of its mask."""


def masks(config: DataConfig) -> Source:
    """``root/PART/{images,masks}``, ``root/{images,masks}/PART``, ``root/{images,masks}``, or ``root/PART`` beside ``root/PART_masks``.

    Where images are in one folder, ``root/ImageSets/Segmentation`` or ``root/valid.txt`` may say of which part each is.
    ``root/classes.txt`` has the names of the classes a line each: the first is 0. One that is named as no class (void, ignore, unlabelled)
    neither trains nor counts, as does 255. Where masks are pictures in colours, ``root/class_dict.csv`` has the names and the colours.

    Raises:
        UserError: no folders, an image without a mask, a mask that cannot be read or whose values are beyond the classes.
    """
    root = Path(config.root)
    parts = _parts(root)
    names, numbering = known_classes(root, [file for found in parts.values() for file in found.labels])
    known = {
        part: Images([MaskFile(str(file), numbering) for file in found.labels], found.names, found.paths) for part, found in parts.items()
    }
    _check([label for images in known.values() for label in images.labels])
    return Source(names, known)


def _parts(root: Path) -> dict[str, PartPairs]:
    """Images and masks by part."""
    lists, held_out = root / "ImageSets" / "Segmentation", root / HELD_OUT
    roots = part_roots(root, FOLDERS, BESIDE)
    found = {
        part: pairs(root, images, masks, ENDINGS, SUFFIXES, lacking=lists.is_dir())  # Pascal VOC has masks of some images
        for part, (images, masks) in roots.items()
    }
    if set(found) != {"train"} or not (lists.is_dir() or held_out.is_file()):
        return found
    whole, (folder, _) = found["train"], roots["train"]
    paths = [path.relative_to(folder).with_suffix("").as_posix() for path in whole.paths]
    by_part = of_lists(lists, paths, "a mask") if lists.is_dir() else of_held_out(held_out, paths, "a mask")
    if "test" not in by_part and "val" in by_part:  # as with class folders: the one held-out part gives the final figure
        by_part["test"] = by_part.pop("val")
    return {part: whole.subset(places) for part, places in by_part.items()} or found


def _check(labels: Sequence[MaskFile]) -> None:
    """Open the masks where their files have at most so many bytes: what is wrong with them is told before a training."""
    size, some = 0, []
    for label in labels:
        size += Path(label.path).stat().st_size
        if size > CHECKED:
            break
        some.append(label)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(MaskFile.read, some))
    except UnreadableError as error:
        raise UserError(f"{error.why}.") from None

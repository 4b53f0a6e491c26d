"""Files of images and of annotations below a root, by part: what the sources of boxes have in common."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from PIL import Image

from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted, first_of
from visionlora.data.files import OtherFiles
from visionlora.data.images import Images
from visionlora.data.sources.pairs import PARTS
from visionlora.data.sources.source import Source
from visionlora.tasks.detect.boxes import Boxes, Faults

SAMPLED = 200
"""Images whose objects tell how large objects are."""
_PART_OF = {name: part for part, names in PARTS.items() for name in names}


@dataclass
class Files:
    """Paths by part: of images by name without ending, and of annotations."""

    images: dict[str, dict[str, Path]] = field(default_factory=dict)
    annotations: dict[str, list[Path]] = field(default_factory=dict)


def part_of(path: PurePath) -> str | None:
    """The part that a folder on the way to a file is named after: ``images/train2017/1.jpg`` is of ``train``."""
    for name in path.parts[:-1]:
        word = name.lower().rstrip("0123456789_-")
        if word in _PART_OF:
            return _PART_OF[word]
    return None


def files_below(
    root: Path, ending: str, without: Sequence[str] = (), images: str | None = None, named: Callable[[Path], str | None] | None = None
) -> Files:
    """The images and the annotations below a folder; what is in no part's folder is under ``train`` where nothing is in one. Annotations
    that are in no part's folder are of every part whose images they have the name of.

    Args:
        root: the folder.
        ending: of annotations, with its dot.
        without: names of files that are no annotations.
        images: name of the folder below the root that has all images, if it is there: masks beside it have the same names.
        named: gives the part of a path where the folders on the way do not; an empty one leaves it out, and a line counts such images.

    Raises:
        UserError: there is no such folder, it has no images, or two of one part have the same name.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} {'is a file, not a folder' if root.exists() else 'is not there'}.")
    found, is_image, loose, of_all, out = Files(), OtherFiles(), [], [], []
    own = root / images if images is not None and next((root / images).glob("*"), None) else None
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        below = path.relative_to(root)
        part = part_of(below) if named is None else named(path)
        annotation = path.suffix.lower() == ending and path.name not in without
        if not annotation and (not is_image(path) or (own is not None and not path.is_relative_to(own))):
            continue
        if part == "":
            out += [] if annotation else [below.as_posix()]
            continue
        if part is None and annotation:
            of_all.append(path)
            continue
        if part is None:
            loose.append(path)
        _put(found, part or "train", path, annotation)
    if out and not process_rank():
        print(f"data.root={root}: {counted(len(out), 'image')} of no part, left out: {first_of(out, 3)}.", file=sys.stderr)
    if len(found.images) > 1 and loose:  # such as a README's picture beside the folders of the parts
        for path in loose:
            if found.images["train"].get(path.stem) == path:
                del found.images["train"][path.stem]
    for path in of_all:
        of = [part for part, there in found.images.items() if path.stem in there] or ["train"]
        for part in of:
            _put(found, part, path, True)
    if not any(found.images.values()):
        raise UserError(f"data.root={root} has no images.")
    return found


def _put(found: Files, part: str, path: Path, annotation: bool) -> None:
    if annotation:
        found.annotations.setdefault(part, []).append(path)
        return
    there = found.images.setdefault(part, {})
    if (before := there.setdefault(path.stem, path)) != path:
        raise UserError(f"{before} and {path} have the same name; annotations are found by it: rename one of them.")


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown, from the head of its file.

    Raises:
        UnreadableError: it has none.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(274) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except Exception as error:  # decoders raise whatever they meet in a damaged file
        raise UnreadableError(f"its size cannot be read: {error}", path) from None


def object_share(images: Images) -> float | None:
    """The side of an object, the square root of its area, as a share of the longer side of its image: of the middle one of all objects in
    some of the images, in order of size. ``None``: they have none.
    """
    found = []
    for place in range(0, len(images), max(len(images) // SAMPLED, 1)):
        label = images.labels[place]
        try:
            height, width = label.size if all(label.size) else size_of(images.paths[place])[::-1]
        except UnreadableError:
            continue
        longer = max(height, width)
        found += [math.sqrt((right - left) * width * (bottom - top) * height) / longer for left, top, right, bottom in label.boxes]
    return statistics.median(found) if found else None


def finished(root: Path, classes: Sequence[str], parts: dict[str, Images], faults: Faults, of: str = "box") -> Source:
    """The source, after its faults, which are ``of`` its boxes or objects, are told.

    Raises:
        UserError: it has no objects, or no training part.
    """
    faults.tell(process_rank(), of)
    if "train" not in parts:
        raise UserError(f"data.root={root} has {' and '.join(parts) or 'no'} images but no train part.")
    if not classes:
        raise UserError(f"data.root={root}: there are no objects in {faults.images:,} images.")
    if "test" not in parts and "val" in parts:  # as with class folders: the one held-out part gives the final figure
        parts["test"] = parts.pop("val")
    boxes = all(isinstance(label, Boxes) for label in parts["train"].labels)  # and no masks of classes
    return Source(list(classes), parts, object_share=object_share(parts["train"]) if boxes else None)

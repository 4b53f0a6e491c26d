"""``data=coco``: images with one JSON file a part, as COCO has them, for boxes; for masks of classes see ``coco_masks``."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted, first_of, not_there
from visionlora.data.config import DataConfig
from visionlora.data.files import OtherFiles
from visionlora.data.images import Images
from visionlora.data.sources.annotated import finished, part_of, size_of
from visionlora.data.sources.pairs import PARTS
from visionlora.data.sources.source import Source
from visionlora.tasks.detect.boxes import Box, Faults
from visionlora.tasks.run_lengths import run_lengths

Annotation = Mapping[str, Any]
"""An entry of a file of COCO's."""
LACKING = "it needs lists of images, annotations and categories"


@dataclass
class CocoFile:
    """A file of annotations: the names of its categories by id, its images, and the annotations of each image by its id."""

    path: Path
    categories: dict[int, str]
    images: list[Annotation]
    objects: dict[int, list[Annotation]]
    crowds: dict[int, list[Annotation]]

    def kind(self, one: Annotation) -> str:
        """The name of the category of an annotation."""
        return self.categories[int(one["category_id"])]

    def size(self, image: Annotation, path: Path) -> tuple[int, int]:
        """Width and height of an image: as the file has them, else as the image has them."""
        try:
            size = int(float(image.get("width") or 0)), int(float(image.get("height") or 0))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{self.where(image)}: width and height must be numbers of pixels.") from None
        return size if min(size) > 0 else size_of(path)

    def where(self, image: Annotation) -> str:
        """The image in words."""
        return f"{self.path.name}, {image['file_name']}"


@dataclass
class CocoPart:
    """A part: its file of annotations, the paths of the images in its order, and what these are called."""

    file: CocoFile
    paths: list[Path]
    names: list[str]


def coco(config: DataConfig) -> Source:
    """``data.root``: a JSON file, or a folder with one for each part, such as ``annotations/instances_train2017.json`` or
    ``train/_annotations.coco.json``. The images are found by their ``file_name`` below the root.

    Raises:
        UserError: no such file, a file that is none of COCO's, images that are not there, ids that are there twice.
    """
    root = Path(config.root)
    found = parts_of(root)
    used = used_classes(found)
    number = {name: place for place, name in enumerate(used)}
    faults = Faults(f"data.root={root}")
    parts = {}
    for part, one in found.items():
        labels = []
        for image, path in zip(one.file.images, one.paths, strict=True):
            size = one.file.size(image, path)
            objects = [(number[one.file.kind(each)], box_of(each, one.file.path, *size)) for each in one.file.objects[int(image["id"])]]
            height_width = (size[1], size[0])
            masks = [_mask(each, height_width) for each in one.file.objects[int(image["id"])]]
            labels.append(faults.of_image(objects, one.file.where(image), masks, height_width))
        parts[part] = Images(labels, one.names, one.paths)
    if crowds := crowds_in(found):
        faults.found["around crowds (iscrowd), left out"] = ["iscrowd=1"] * crowds
    return finished(root, used, parts, faults)


def parts_of(root: Path) -> dict[str, CocoPart]:
    """The parts below a folder, or of one file.

    Raises:
        UserError: see ``coco``.
    """
    files, found = _files(root), {}
    base = root if root.is_dir() else root.parent
    images = _images_below(base)
    if not images and root.is_file():  # annotations/FILE.json beside images
        base = base.parent
        images = _images_below(base)
    for part, file in files.items():
        paths = _paths(file, images, part, base)
        found[part] = CocoPart(file, paths, [path.relative_to(base).as_posix() for path in paths])
    return found


def used_classes(parts: Mapping[str, CocoPart]) -> list[str]:
    """Names of the categories that there are objects of, sorted."""
    return sorted({one.file.kind(each) for one in parts.values() for objects in one.file.objects.values() for each in objects})


def crowds_in(parts: Mapping[str, CocoPart]) -> int:
    """How many annotations are of crowds."""
    return sum(len(objects) for one in parts.values() for objects in one.file.crowds.values())


def _files(root: Path) -> dict[str, CocoFile]:
    """The files of annotations by part."""
    if root.is_file():
        if not _has_lists(content := _json(root)):
            raise UserError(f"{root} is no file of COCO's: {LACKING}.")
        return {"train": _read(root, content)}
    if not root.is_dir():
        raise UserError(f"data.root={root} is not there.")
    found: dict[str, CocoFile] = {}
    others: dict[Path, str] = {}
    for path in sorted(root.rglob("*.json")):
        part = part_of(path.relative_to(root)) or _named(path.stem) or "train"
        if path.stem.startswith(("captions", "person_keypoints", "image_info", "panoptic", "stuff")):
            continue
        if not _has_lists(content := _json(path)):
            others[path] = part
            continue
        if part in found:
            raise UserError(f"{found[part].path} and {path} are both of the part {part}; leave one, or give the file itself as data.root.")
        found[part] = _read(path, content)
    strange = next((path for path, part in others.items() if part not in found), None)
    if strange is not None:  # it may be the part's own
        raise UserError(f"{strange} is no file of COCO's: {LACKING}.")
    if not found:
        raise UserError(f"data.root={root} has no .json file with annotations.")
    if others and not process_rank():
        names = first_of([path.relative_to(root).as_posix() for path in others], 3)
        print(f"data.root={root}: {counted(len(others), 'JSON file')} without COCO's lists, left out: {names}.", file=sys.stderr)
    return found


def _named(stem: str) -> str | None:
    words = stem.lower().replace("-", "_").replace(".", "_").split("_")
    return next((part for part, names in PARTS.items() for word in words if word.rstrip("0123456789") in names), None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from None


def _has_lists(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories"))


def _read(path: Path, content: Mapping[str, Any]) -> CocoFile:
    """What a file says that has COCO's lists.

    Raises:
        UserError: an entry is damaged, or an id is there twice.
    """
    try:
        of_categories = [int(one["id"]) for one in content["categories"]]
        categories = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        ids = [int(one["id"]) for one in content["images"]]
        names = [str(one["file_name"]) for one in content["images"]]
        objects: dict[int, list[Annotation]] = defaultdict(list)
        crowds: dict[int, list[Annotation]] = defaultdict(list)
        for one in content["annotations"]:
            if int(one["category_id"]) not in categories:
                raise UserError(f"{path}: annotation {one.get('id')} has category {one['category_id']}, which is none of its categories.")
            (crowds if int(one.get("iscrowd") or 0) else objects)[int(one["image_id"])].append(one)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: an entry lacks {error} or has something else there.") from None
    for what, values in (("category id", of_categories), ("image id", ids), ("file_name", names)):
        if len(set(values)) != len(values):
            twice = next(value for place, value in enumerate(values) if value in values[:place])
            raise UserError(f"{path}: the {what} {twice!r} is there twice.")
    strange = sorted(set(objects) - set(ids))
    if strange:
        raise UserError(f"{path}: annotations are of the image id {strange[0]}, which is none of its images ({len(strange)} such ids).")
    return CocoFile(path, categories, content["images"], objects, crowds)


def _images_below(root: Path) -> dict[str, list[Path]]:
    """Every image below a folder, by its name."""
    is_image, found = OtherFiles(), defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.is_file() and is_image(path):
            found[path.name].append(path)
    return found


def _paths(file: CocoFile, images: Mapping[str, list[Path]], part: str, base: Path) -> list[Path]:
    """The file of each image, of those that lie below ``base``.

    Raises:
        UserError: some are not there.
    """
    found, missing = [], []
    drawn = file.path.parent / "overlays"  # what ``predict`` writes beside its coco.json: the images with boxes drawn in
    for image in file.images:
        name = str(image["file_name"]).replace("\\", "/")
        there = [path for path in images.get(name.rpartition("/")[2], []) if not path.is_relative_to(drawn)]
        exact = [path for path in there if path.as_posix().endswith("/" + name.removeprefix("./"))]
        if not exact and len(there) == 1:  # the folder is another than it was where the file was written
            exact = there
        near = [path for path in exact if path.is_relative_to(file.path.parent)] if len(exact) > 1 else exact
        of_part = [path for path in exact if part_of(path.relative_to(base)) == part] if len(near) != 1 else near
        chosen = of_part or near or exact
        if len(chosen) > 1:
            raise UserError(f"{file.path} names {name}, which may be {chosen[0]} or {chosen[1]}; it must say the folder.")
        if chosen:
            found.append(chosen[0])
        else:
            missing.append(name)
    if missing:
        hint = " If predict has written it, copy it into the folder of the images, and give that as data.root." if drawn.is_dir() else ""
        raise UserError(f"{file.path} names {not_there(missing)}.{hint}")
    twice = next((path for path, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        names = [str(image["file_name"]) for image, path in zip(file.images, found, strict=True) if path == twice]
        raise UserError(f"{file.path} names {names[0]} and {names[1]}, and there is only {twice} for both.")
    return found


def _mask(one: Annotation, size: tuple[int, int]) -> bytes | None:
    """The run lengths of an object; ``None`` where it has none that can be read, which only Mask R-CNN asks for."""
    try:
        return run_lengths(one.get("segmentation"), size)
    except ValueError:
        return None


def box_of(one: Annotation, path: Path, width: float, height: float) -> Box:
    """The box of an annotation, in shares of the image.

    Raises:
        UserError: it has none.
    """
    try:
        left, top, across, down = (float(value) for value in one["bbox"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: annotation {one.get('id')} has no bbox of four numbers: left, top, width, height.") from None
    return left / width, top / height, (left + across) / width, (top + down) / height

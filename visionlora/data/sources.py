"""Where images come from: a function for each name of ``data.config.SOURCES``."""

from __future__ import annotations

import importlib
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from torchvision.datasets.folder import make_dataset

from visionlora.common.errors import UserError
from visionlora.data.archives import packed_folders
from visionlora.data.class_names import with_names
from visionlora.data.config import SOURCES, DataConfig
from visionlora.data.findings import excluded
from visionlora.data.folders import class_names, is_archive, part_folders
from visionlora.data.images import Images, OtherFiles
from visionlora.data.table import Table
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.registry import kind_of
from visionlora.tasks.segment.mask_file import MaskArray, MaskFile
from visionlora.tasks.task import Task


@dataclass(frozen=True)
class Source:
    """What a source has, before anything is split off.

    Args:
        classes: names of the model's outputs.
        parts: the images, of ``train`` at least.
        folders: what the classes are called where they come from, if ``data.classes`` has given them other names.
        image_size: what ``data.image_size=null`` is, where that is not the backbone's own size.
    """

    classes: list[str]
    parts: dict[str, Images]
    image_size: int | None = None
    folders: list[str] = field(default_factory=list)


def load_source(config: DataConfig, kind: type[Task] | None = None) -> Source:
    """The source ``config.name``, with the labels of a task of this ``kind``, by default classes.

    Raises:
        UserError: nothing there, a class without images, no network, labels that are none of the task's.
    """
    source = _maker(config.name, kind)(config)
    if isinstance(source, Table):
        names, labels = (kind or kind_of(None)).of_cells(source.cells)
        source = Source(names, {part: replace(images, labels=labels[part]) for part, images in source.parts.items()})
    if isinstance(source, Source) and config.exclude is not None:
        source = without_excluded(source, Path(config.exclude))
    kind = kind or kind_of(None)
    if isinstance(source, Source) and not issubclass(kind, PlacedTask) and isinstance(_first_label(source), Boxes | MaskFile | MaskArray):
        has, wanted = ("boxes", "detect") if isinstance(_first_label(source), Boxes) else ("masks", "segment")
        raise UserError(f"data={config.name} has {has}, of which task={kind.name} learns nothing; write task={wanted}.")
    if not isinstance(source, Source) or "train" not in source.parts:
        raise UserError(f"data={config.name}: the source gives {type(source).__name__}, not a Source with a part named train.")
    return source if config.classes is None else with_names(source, config.classes)


def without_excluded(source: Source, file: Path) -> Source:
    """The source without the images that ``file`` leaves out.

    Raises:
        UserError: it cannot be read, names none of the images, or leaves none of a part.
    """
    names = excluded(file)
    parts = {}
    for part, images in source.parts.items():
        kept = [place for place, name in enumerate(images.names) if name not in names]
        if not kept:
            raise UserError(f"data.exclude={file} leaves no image of the {part} part.")
        parts[part] = images.subset(kept) if len(kept) < len(images) else images
    if names and sum(map(len, parts.values())) == sum(map(len, source.parts.values())):
        raise UserError(f"data.exclude={file} names {len(names)} images, none of which the data has: is it of another folder?")
    return replace(source, parts=parts)


def _first_label(source: Source) -> Any:
    return next((images.labels[0] for images in source.parts.values() if len(images)), None)


def _maker(name: str, kind: type[Task] | None) -> Callable[[DataConfig], Any]:
    """What makes the source, in the way that the task has it."""
    own = kind.sources.get(name) if kind is not None and issubclass(kind, PlacedTask) else None
    if own is None:
        return SOURCES[name]
    module, _, function = own.partition(":")
    maker: Callable[[DataConfig], Any] = getattr(importlib.import_module(module), function)
    return maker


def digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8×8, 16 grey levels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Source(
        [str(n) for n in bunch.target_names],
        {"train": Images.of_arrays((bunch.images * 15.9375).astype(np.uint8), bunch.target)},
        image_size=32,
    )


def fake(config: DataConfig) -> Source:
    """Noise around a colour for each class: learnable, made on the fly, the same each time."""
    side, count = config.image_size or 32, config.num_classes
    random = np.random.default_rng(0)
    colours = random.integers(40, 216, (count, 3))
    parts = {}
    for part, size in (("train", config.num_images), ("test", max(config.num_images // 2, count))):
        labels = np.arange(size) % count
        noise = random.integers(-40, 40, (size, side, side, 3))
        parts[part] = Images.of_arrays((colours[labels][:, None, None] + noise).astype(np.uint8), labels.tolist(), f"{part}/")
    return Source([f"class{n}" for n in range(count)], parts)


def cifar(config: DataConfig) -> Source:
    """Class folders under the root if there are any, else torchvision's files, downloaded when missing."""
    for root in (Path(config.root), Path(config.root) / config.name):
        if (root / "train").is_dir():
            return class_folders(root, config.name)
    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[config.name]
    try:
        train, test = (dataset(config.root, train=train, download=config.download) for train in (True, False))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"data={config.name}: {config.root} holds neither class folders (train/CLASS/*, test/CLASS/*) nor torchvision's files,"
            f" and they cannot be downloaded ({getattr(error, 'reason', error)}). Offline, put either there and give data.root=DIR."
        ) from None
    parts = {
        "train": Images.of_arrays(train.data, train.targets, "train/"),
        "test": Images.of_arrays(test.data, test.targets, "test/"),
    }
    return Source(list(train.classes), parts)


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

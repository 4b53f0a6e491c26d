"""``data=voc``: images with an XML file each, as Pascal VOC has them."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import counted
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.annotated import files_below, finished, size_of
from visionlora.data.sources.lists import of_lists
from visionlora.data.sources.source import Source
from visionlora.tasks.detect.boxes import Box, Faults


def voc(config: DataConfig) -> Source:
    """``JPEGImages`` and ``Annotations``, with the parts of ``ImageSets/Main`` where they are there; or any folders below the root in which
    images have XML files of their names, in folders ``train``, ``val``, ``test`` where they are there; images without one are left out.

    Raises:
        UserError: no images with files, or a file that cannot be read.
    """
    root = _own_root(Path(config.root))
    found = files_below(root, ".xml", images="JPEGImages")
    parts: dict[str, list[tuple[Path, Path]]] = {}
    unlabelled: list[str] = []
    for part, images in found.images.items():
        files = {path.stem: path for path in found.annotations.get(part, [])}
        unlabelled += [path.name for stem, path in images.items() if stem not in files]
        parts[part] = [(path, files[stem]) for stem, path in images.items() if stem in files]
    if not any(parts.values()):
        raise UserError(f"data.root={root} has {counted(len(unlabelled), 'image')} and no XML file of the same name as one of them.")
    if unlabelled and not process_rank():
        count = counted(len(unlabelled), "image")
        print(f"data.root={root}: {count} without an XML file of the same name, left out (first: {unlabelled[0]}).", file=sys.stderr)
    lists = root / "ImageSets" / "Main"
    if set(parts) == {"train"} and lists.is_dir():
        whole = parts["train"]
        by_part = of_lists(lists, [path.stem for path, _ in whole], "an XML file of the same name")
        parts = {part: [whole[place] for place in places] for part, places in by_part.items()} or parts
    faults = Faults(f"data.root={root}")
    read = {part: [(path, *_objects(file, path)) for path, file in pairs] for part, pairs in parts.items()}
    classes = sorted({name for found in read.values() for _, objects, _ in found for name, _ in objects})
    known = {name: number for number, name in enumerate(classes)}
    images_by_part = {}
    for part, rows in read.items():
        labels = [faults.of_image([(known[name], box) for name, box in objects], path.name, size=size) for path, objects, size in rows]
        names = [path.relative_to(root).as_posix() for path, *_ in rows]
        images_by_part[part] = Images(labels, names, [path for path, *_ in rows])
    return finished(root, classes, images_by_part, faults)


def _own_root(root: Path) -> Path:
    """The folder with ``JPEGImages``, where it is the only one below the folder that is given, as in ``VOCdevkit/VOC2012``.

    Raises:
        UserError: there are several with parts of their own, as with two years of Pascal VOC.
    """
    own = [path.parent for pattern in ("JPEGImages", "*/JPEGImages", "*/*/JPEGImages") for path in sorted(root.glob(pattern))]
    years = [path for path in own if (path / "ImageSets").is_dir()]
    if len(years) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in years)
        raise UserError(f"data.root={root} has several data sets, {names}; name one of them, as data.root={years[-1]}.")
    return own[0] if len(own) == 1 else root


def _objects(file: Path, image: Path) -> tuple[list[tuple[str, Box]], tuple[int, int]]:
    """Name and box of each object, and the height and width of the image.

    Raises:
        UserError: the file is none of Pascal VOC's.
    """
    try:
        tree = ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{file} cannot be read as XML: {error}.") from None
    width, height = (_number(tree, f"size/{key}", file, 0.0) for key in ("width", "height"))
    if width <= 0 or height <= 0:
        width, height = size_of(image)
    found = []
    for number, one in enumerate(tree.iter("object"), start=1):
        name = (one.findtext("name") or "").strip()
        if not name or one.find("bndbox") is None:
            raise UserError(f"{file}, object {number}: it has no {'bndbox' if name else 'name'}.")
        left, top, right, bottom = (_number(one, f"bndbox/{key}", file) for key in ("xmin", "ymin", "xmax", "ymax"))
        found.append((name, (left / width, top / height, right / width, bottom / height)))
    return found, (round(height), round(width))


def _number(tree: ElementTree.Element, path: str, file: Path, usual: float | None = None) -> float:
    text = tree.findtext(path)
    if text is None and usual is not None:
        return usual
    try:
        return float(text or "")
    except (TypeError, ValueError):
        raise UserError(f"{file}: {path} is {text!r}, and must be a number.") from None

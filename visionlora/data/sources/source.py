"""What a source has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from visionlora.common.errors import UserError
from visionlora.data.findings import excluded
from visionlora.data.images import Images


@dataclass(frozen=True)
class Source:
    """What a source has, before anything is split off.

    Args:
        classes: names of the model's outputs.
        parts: the images, of ``train`` at least.
        folders: what the classes are called where they come from, if ``data.classes`` has given them other names.
        image_size: what ``data.image_size=null`` is, where that is not the backbone's own size.
        object_share: side of the objects in the images, on the median, as a share of the longer side of their image; where it is known.
    """

    classes: list[str]
    parts: dict[str, Images]
    image_size: int | None = None
    folders: list[str] = field(default_factory=list)
    object_share: float | None = None


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

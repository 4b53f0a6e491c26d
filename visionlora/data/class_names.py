"""``data.classes``: what class folders are called, and in which order they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.common.errors import UserError

if TYPE_CHECKING:
    from visionlora.data.sources.source import Source

WORDNET = "wordnet"
"""In place of a file: names by WordNet's ids, which the folders are."""


def with_names(source: Source, classes: str) -> Source:
    """The source with its classes named, and ordered, as a file says.

    Args:
        source: whose labels are numbers of classes.
        classes: ``wordnet``, or a text file: on each line a class of the source and, after a tab or space, its name, in the order that
            the outputs shall have; or names alone, as many as classes, in the sorted order of these.

    Raises:
        UserError: it cannot be read, leaves out a class, gives two the same name, or the labels are no classes.
    """
    if not all(isinstance(label, int) for label in source.parts["train"].labels):
        raise UserError(f"data.classes={classes} names classes, which the labels of this task are not; leave it out.")
    pairs = _of_wordnet(source.classes) if classes == WORDNET else _of_file(Path(classes), source.classes)
    names = [name for _, name in pairs]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"data.classes={classes}: two classes are named {twice!r}.")
    place_of = {source.classes.index(folder): place for place, (folder, _) in enumerate(pairs)}
    parts = {part: replace(images, labels=[place_of[label] for label in images.labels]) for part, images in source.parts.items()}
    return replace(source, classes=names, parts=parts, folders=[folder for folder, _ in pairs])


def _of_file(file: Path, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Class and name, in order."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.classes={file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    for known in ({line: line for line in lines}, dict(map(_in_two, lines))):
        if set(classes) <= set(known):
            return [(folder, name) for folder, name in known.items() if folder in set(classes)]
    if len(lines) == len(classes) and not any(_in_two(line)[0] in classes for line in lines):
        return list(zip(sorted(classes), lines, strict=True))
    absent = [name for name in classes if name not in dict(map(_in_two, lines))]
    raise UserError(
        f"data.classes={file} has no line for the class {absent[0]!r} ({len(absent)} of {len(classes)} are missing); a line is the class, a"
        " tab or space, and its name; or there is one name a line for every class, in sorted order."
    )


def _in_two(line: str) -> tuple[str, str]:
    folder, _, name = line.partition("\t") if "\t" in line else line.partition(" ")
    return folder.strip(), name.strip() or folder.strip()


def _of_wordnet(ids: Sequence[str]) -> list[tuple[str, str]]:
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    found: dict[str, str] = {}
    for label in ids:
        try:
            found[label] = known.label_name_to_description(label).split(", ")[0]
        except KeyError:
            raise UserError(
                f"data.classes=wordnet: the class {label!r} is no WordNet id that timm knows, as n01440764 is; name it in a file."
            ) from None
    names = list(found.values())
    return [(label, f"{name} ({label})" if names.count(name) > 1 else name) for label, name in found.items()]

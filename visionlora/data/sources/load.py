"""The source that a config names: a function for each name of ``data.config.SOURCES``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.data.class_names import with_names
from visionlora.data.config import SOURCES, DataConfig
from visionlora.data.sources.source import Source, without_excluded
from visionlora.data.sources.table import Table
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.registry import kind_of
from visionlora.tasks.segment.mask_file import MaskArray, MaskFile
from visionlora.tasks.task import Task


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

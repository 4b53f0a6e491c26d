"""Splitting off what a source lacks: stratified, seeded, the same on every run, and on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import train_test_split

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.folders import PARTS
from visionlora.data.images import Pictures
from visionlora.data.sources import Source


def complete(source: Source, config: DataConfig) -> tuple[dict[str, Pictures], dict[str, list[str]]]:
    """The parts of ``source`` with ``test`` and ``val`` split off ``train`` where they are missing.

    Returns:
        The parts, and the names of the pictures in each part that a split made.

    Raises:
        UserError: a class is too small to be split.
    """
    parts = dict(source.parts)
    record: dict[str, list[str]] = {}
    for part, share in (("test", config.test_fraction), ("val", config.val_fraction)):
        if part in parts or share == 0:
            continue
        train = parts["train"]
        try:
            kept, held_out = train_test_split(range(len(train)), test_size=share, stratify=train.labels, random_state=config.split_seed)
        except ValueError:
            label, count = min(Counter(train.labels).items(), key=lambda item: item[1])
            raise UserError(
                f"cannot split {share:.0%} off {len(train)} pictures for {part} so that every class is in both: class"
                f" {source.classes[label]!r} has {count}; add pictures, or change data.{part}_fraction (0 for none)."
            ) from None
        parts["train"], parts[part] = train.subset(sorted(kept)), train.subset(sorted(held_out))
        record |= {part: parts[part].names, "train": parts["train"].names}
    if config.per_class:
        parts["train"] = _few(parts["train"], config, source.classes)
        record["train"] = parts["train"].names
    return {part: parts[part] for part in PARTS if part in parts}, record


def _few(train: Pictures, config: DataConfig, classes: list[str]) -> Pictures:
    """``data.per_class`` pictures of each class, drawn by ``data.split_seed``."""
    assert config.per_class is not None
    order = np.random.default_rng(config.split_seed).permutation(len(train)).tolist()
    taken: Counter[int] = Counter()
    kept = []
    for index in order:
        label = train.labels[index]
        if taken[label] < config.per_class:
            taken[label] += 1
            kept.append(index)
    for label, name in enumerate(classes):
        if taken[label] < config.per_class:
            raise UserError(f"data.per_class={config.per_class}: class {name!r} has {taken[label]} training pictures.")
    return train.subset(sorted(kept))


def recorded(source: Source, record: Mapping[str, list[str]]) -> dict[str, Pictures]:
    """The parts of ``source`` as a run's record has them, whatever has been added to the folder since.

    Raises:
        UserError: a picture of the record is not there any more.
    """
    parts, pool = dict(source.parts), source.parts["train"]
    where = {name: i for i, name in enumerate(pool.names)}
    for part, names in record.items():
        missing = [name for name in names if name not in where]
        if missing:
            raise UserError(f"{missing[0]} of the run's {part} split is not in the data any more ({len(missing)} of {len(names)} missing).")
        parts[part] = pool.subset([where[name] for name in names])
    return parts

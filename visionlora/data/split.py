"""Splitting off what a source lacks: stratified, seeded, the same on every run; a run keeps it as ``split.json`` (``runs/folder.py``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, KFold, StratifiedKFold, train_test_split

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.folders import PARTS
from visionlora.data.sources.source import Source
from visionlora.tasks.task import Task

VAL_FRACTION = 0.1
"""What ``data.val_fraction=null`` is where there are images enough."""
FEWEST = 100
"""Images in a validation split below which ``data.folds=auto`` takes folds: of 24 images, one is four points."""
FOLDS = {200: 5, 500: 3, 1_000: 2}
"""Training images up to which ``data.folds=auto`` takes so many folds: each costs a training."""


def complete(source: Source, config: DataConfig, task: Task) -> tuple[dict[str, Images], dict[str, list[str]]]:
    """The parts of ``source`` with ``test`` and ``val`` split off ``train`` where they are missing.

    Where the task's labels make groups (classes), every part has its share of each.

    Returns:
        The parts, and the names of the images in each part that a split made.

    Raises:
        UserError: a group is too small to be split, or there are none to count ``data.per_class`` by.
    """
    parts = dict(source.parts)
    record: dict[str, list[str]] = {}
    for part in ("test", "val"):
        train = parts["train"]
        share = config.test_fraction if part == "test" else _val_fraction(train, config, task)
        if part in parts or share == 0:
            continue
        groups = task.groups(train.labels)
        try:
            kept, held_out = _in_two(train, share, groups, config.split_seed)
        except ValueError:
            group, count = min(Counter(groups).items(), key=lambda item: item[1]) if groups else (None, len(train))
            few = f" so that every {task.group_word} is in both: {task.group_word} {task.in_words(group)!r} has {count}" if groups else ""
            raise UserError(
                f"cannot split {share:.0%} off {len(train)} images for {part}{few}; add images, or change data.{part}_fraction (0 for"
                " none)."
            ) from None
        parts["train"], parts[part] = train.subset(sorted(kept)), train.subset(sorted(held_out))
        record |= {part: parts[part].names, "train": parts["train"].names}
    if config.per_class:
        parts["train"] = _few(parts["train"], config, task)
        record["train"] = parts["train"].names
    return {part: parts[part] for part in PARTS if part in parts}, record


def _in_two(train: Images, share: float, strata: Sequence[int] | None, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the images that are kept, and of those that are held out: a share of each stratum; with groups, whole groups.

    Raises:
        ValueError: there are too few.
    """
    if not train.groups:
        kept, held_out = train_test_split(range(len(train)), test_size=share, stratify=strata, random_state=seed)
        return kept, held_out
    if len(set(train.groups)) < 2:
        raise ValueError
    kept, held_out = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(train.labels, groups=train.groups))
    return kept.tolist(), held_out.tolist()


def _val_fraction(train: Images, config: DataConfig, task: Task) -> float:
    """What is split off for validation; nothing where folds take its place, or where a group has one image only and there are few."""
    if config.folds not in ("auto", 0):
        return 0.0
    if config.val_fraction is not None:
        return config.val_fraction
    few = len(train) * VAL_FRACTION < FEWEST
    return 0.0 if few and (config.folds == "auto" or _smallest(train, task) < 2) else VAL_FRACTION


def folds_of(parts: Mapping[str, Images], config: DataConfig, task: Task) -> tuple[int, str]:
    """How many folds there are in place of a validation part, 0 for none; and, where it is not what was asked for, why."""
    train = parts["train"]
    if "val" in parts or config.folds == 0 or (config.folds == "auto" and config.val_fraction is not None):
        return 0, "there is a validation part" if config.folds not in ("auto", 0) else ""
    most = _smallest(train, task)
    if config.folds == "auto":
        wanted = next((count for most, count in FOLDS.items() if len(train) <= most), 2)
        return (0, f"one {task.group_word} has one training image only") if most < 2 else (min(wanted, most), "")
    wanted = int(config.folds)
    if most < 2:
        return 0, f"one {task.group_word} has one training image only"
    return min(wanted, most), f"one {task.group_word} has {most} training images only" if most < wanted else ""


def fold_parts(train: Images, folds: int, seed: int, task: Task) -> list[tuple[list[int], list[int]]]:
    """Positions of the images that each fold trains on, and of those that it holds out; every fold has its share of each group."""
    groups = task.groups(train.labels)
    if train.groups:
        splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    else:
        splitter = (KFold if groups is None else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    split = splitter.split(np.zeros(len(train)), groups, groups=train.groups or None)
    return [(kept.tolist(), held_out.tolist()) for kept, held_out in split]


def _smallest(train: Images, task: Task) -> int:
    """Images of the smallest group, or of all where there are no groups; whole groups of images where a split leaves them whole."""
    if train.groups:
        return len(set(train.groups))
    groups = task.groups(train.labels)
    return len(train) if groups is None else min(Counter(groups).values())


def _few(train: Images, config: DataConfig, task: Task) -> Images:
    """``data.per_class`` images of each group, drawn by ``data.split_seed``."""
    assert config.per_class is not None
    groups = task.groups(train.labels)
    if groups is None:
        raise UserError(f"data.per_class counts by class, and task={task.name} has none; leave it out.")
    order = np.random.default_rng(config.split_seed).permutation(len(train)).tolist()
    taken: Counter[int] = Counter()
    kept = []
    for index in order:
        if taken[groups[index]] < config.per_class:
            taken[groups[index]] += 1
            kept.append(index)
    for group in task.every_group(train.labels):
        if taken[group] < config.per_class:
            raise UserError(
                f"data.per_class={config.per_class}: {task.group_word} {task.in_words(group)!r} has {taken[group]} training images."
            )
    return train.subset(sorted(kept))


def recorded(source: Source, record: Mapping[str, list[str]]) -> dict[str, Images]:
    """The parts of ``source`` as a run's record has them, whatever has been added to the folder since.

    Raises:
        UserError: an image of the record is not there any more.
    """
    parts, pool = dict(source.parts), source.parts["train"]
    where = {name: i for i, name in enumerate(pool.names)}
    for part, names in record.items():
        missing = [name for name in names if name not in where]
        if missing:
            raise UserError(f"{missing[0]} of the run's {part} split is not in the data any more ({len(missing)} of {len(names)} missing).")
        parts[part] = pool.subset([where[name] for name in names])
    return parts

"""Splitting off what a source lacks: stratified, seeded, the same on every run; a run keeps it as ``split.json`` (``runs/folder.py``)."""

from __future__ import annotations

import math
import warnings
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
MOST_HELD_OUT = 1 / 3
"""Share of the images that is held out at most where the share asked for has too few for one of each group."""
FOLDS = {200: 5, 500: 3, 1_000: 2}
"""Training images up to which ``data.folds=auto`` takes so many folds: each costs a training."""


def complete(source: Source, config: DataConfig, task: Task) -> tuple[dict[str, Images], dict[str, list[str]]]:
    """The parts of ``source`` with ``test`` and ``val`` split off ``train`` where they are missing.

    Where the task's labels make groups (classes), every part has its share of each; the only image of a group stays in ``train``.

    Returns:
        The parts, and the names of the images in each part that a split made.

    Raises:
        UserError: a group is too small to be split, or there are none to count ``data.per_class`` by.
    """
    parts = dict(source.parts)
    record: dict[str, list[str]] = {}
    for part in ("test", "val"):
        train = parts["train"]
        share = config.test_fraction if part == "test" else _val_fraction(train, config)
        if part in parts or share == 0:
            continue
        groups = task.groups(train.labels)
        try:
            kept, held_out = _in_two(train, share, groups, config.split_seed)
        except ValueError:
            if part == "val" and config.val_fraction is None:
                continue  # nobody asked for it: nothing is measured before the test
            group, count = min(Counter(groups).items(), key=lambda item: item[1]) if groups else (None, len(train))
            word = task.group_words[0]
            few = f" so that every {word} is in both: {word} {task.in_words(group)!r} has {count}" if groups else ""
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

    At least as many are held out as there are strata, and the only image of a stratum is kept.

    Raises:
        ValueError: there are too few.
    """
    if not train.groups:
        only, rest = _only_and_rest(strata, len(train))
        own = None if strata is None else [strata[i] for i in rest]
        asked, strata_there = math.ceil(share * len(rest)), len(set(own or ()))
        size = max(asked, strata_there)
        if own and (size > max(asked, MOST_HELD_OUT * len(rest)) or strata_there < 2):
            raise ValueError
        kept, held_out = train_test_split(rest, test_size=size, stratify=own, random_state=seed)
        return kept + only, held_out
    if len(set(train.groups)) < 2:
        raise ValueError
    kept, held_out = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(train.labels, groups=train.groups))
    return kept.tolist(), held_out.tolist()


def _only_and_rest(groups: Sequence[int] | None, count: int) -> tuple[list[int], list[int]]:
    """Positions of images that are all there is of their group, and of the others: of ``count``."""
    sizes = Counter(groups or ())
    only = [i for i in range(count) if groups and sizes[groups[i]] == 1]
    return only, sorted(set(range(count)) - set(only))


def only_images(train: Images, task: Task) -> list[str]:
    """Names of the groups (classes) that have one training image only, where images are split by groups."""
    groups = task.groups(train.labels)
    return [] if train.groups else [task.in_words(groups[i]) for i in _only_and_rest(groups, len(train))[0] if groups]


def _val_fraction(train: Images, config: DataConfig) -> float:
    """What is split off for validation; nothing where folds take its place."""
    if config.folds not in ("auto", 0):
        return 0.0
    if config.val_fraction is not None:
        return config.val_fraction
    few = len(train) * VAL_FRACTION < FEWEST
    return 0.0 if few and config.folds == "auto" else VAL_FRACTION


def folds_of(parts: Mapping[str, Images], config: DataConfig, task: Task) -> tuple[int, str]:
    """How many folds there are in place of a validation part, 0 for none; and, where it is not what was asked for, why."""
    train = parts["train"]
    if "val" in parts or config.folds == 0 or (config.folds == "auto" and config.val_fraction is not None):
        return 0, "there is a validation part" if config.folds not in ("auto", 0) else ""
    most = _largest(train, task)
    if most < 2:
        return 0, f"no two {task.group_words[1]} have two training images" if task.groups(train.labels) else "there is one image only"
    if config.folds == "auto":
        return min(next((count for images, count in FOLDS.items() if len(train) <= images), 2), most), ""
    wanted = int(config.folds)
    return min(wanted, most), f"no {task.group_words[0]} has more than {most} training images" if most < wanted else ""


def fold_parts(train: Images, folds: int, seed: int, task: Task) -> list[tuple[list[int], list[int]]]:
    """Positions of the images that each fold trains on, and of those that it holds out: its share of each group.

    The only image of a group is never held out: a model that has not seen it knows nothing of the group.
    """
    groups = task.groups(train.labels)
    if train.groups:
        split = GroupKFold(folds, shuffle=True, random_state=seed).split(train.labels, groups=train.groups)
        return [(kept.tolist(), held_out.tolist()) for kept, held_out in split]
    only, rest = _only_and_rest(groups, len(train))
    splitter = (KFold if groups is None else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it is then held out by some folds only
        split = list(splitter.split(rest, [groups[i] for i in rest] if groups else None))
    places = np.array(rest)
    return [(sorted(places[kept].tolist() + only), places[held_out].tolist()) for kept, held_out in split]


def _largest(train: Images, task: Task) -> int:
    """Images of the largest group, or of all where there are no groups; whole groups of images where a split leaves them whole.

    One, where no two groups have two images: what is held out would be of one group.
    """
    if train.groups:
        return len(set(train.groups))
    groups = task.groups(train.labels)
    if groups is None:
        return len(train)
    first, second = (*sorted(Counter(groups).values(), reverse=True), 0)[:2]
    return first if second > 1 else 1


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
                f"data.per_class={config.per_class}: {task.group_words[0]} {task.in_words(group)!r} has {taken[group]} training images."
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

"""Which keys of a config make two runs the same run or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visionlora.runs.config import OPEN, OWN, TrainConfig, portable
from visionlora.runs.folder import RunFolder

WITHOUT_FILES = ("digits", "fake")
"""Data that is read from no ``data.root``."""


NO_MATTER = ("trainer.enable_progress_bar", "data.num_workers")
"""Keys whose values do not matter: two runs that differ in these alone are the same run."""


def same_run(config: TrainConfig, run: RunFolder) -> bool:
    """Whether the run in the folder was asked for in the same words."""
    if not run.config.is_file():
        return False
    ours, theirs = OmegaConf.create(portable(config)), run.read_config()
    unimportant = [*NO_MATTER, *found_keys(theirs), *left_open(ours), *(["data.root"] if theirs.data.name in WITHOUT_FILES else [])]
    for key in unimportant:
        OmegaConf.update(theirs, key, OmegaConf.select(ours, key), force_add=True)
    return all(ours.get(key) == theirs.get(key) for key in OWN)


def left_open(asked: DictConfig) -> list[str]:
    """Keys that a config leaves to the recipe: what they became was not asked for."""
    return [key for key, value in OPEN.items() if OmegaConf.select(asked, key) == value]


def found_keys(saved: DictConfig) -> list[str]:
    """Keys that a finder has set in the run's config: their values were not asked for."""
    trainer = saved.get("trainer") or {}
    finders = {"data.batch_size": trainer.get("batch_size") == "auto", "optim.lr": bool(trainer.get("lr_find"))}
    return [key for key, on in finders.items() if on]


VALUES = ("lora.targets",)
"""Keys of which a mapping is the value."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with a dotted key for each value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value and name not in VALUES else {name: value}
    return flat

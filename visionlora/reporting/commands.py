"""A run's config as the shortest command that asks for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from visionlora.common.config import checked
from visionlora.common.rows import shown
from visionlora.runs.config import OWN, TrainConfig, portable
from visionlora.runs.identity import NO_MATTER, WITHOUT_FILES, flatten

GROUPS = ("model", "task", "data", "lora", "optim", "trainer")


def command_of(config: Mapping[str, Any], conf_dir: Path) -> str:
    """``python -m visionlora.train …`` for a flat config: the nearest option of each group, then what is left to say.

    Args:
        config: a dotted key for each value.
        conf_dir: the config files.
    """
    said: list[str] = []
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir), version_base="1.3"):
        base = _composed([], config)
        for group in GROUPS:
            options = [_composed([f"{group}={file.stem}"], config) for file in sorted((conf_dir / group).glob("[!_]*.yaml"))]
            nearest = min([base, *options], key=lambda option: _distance(option.values, config, group))
            if nearest is not base:
                said += nearest.words
        base = _composed(said, config)
    unsaid = {*NO_MATTER} | ({"data.root"} if config.get("data.name") in WITHOUT_FILES else set())
    values = base.values
    left = [f"{key}={shown(value)}" for key, value in config.items() if key in values and values[key] != value and key not in unsaid]
    left += [f"+{key}={shown(value)}" for key, value in config.items() if key.startswith(("trainer.", "task.")) and key not in values]
    return " ".join(["python -m visionlora.train", *map(shlex.quote, (*said, *left))])


class _Option(NamedTuple):
    """Words of a command line, with those for what they leave open, and the flat config they ask for."""

    words: list[str]
    values: dict[str, Any]


def _composed(words: list[str], config: Mapping[str, Any]) -> _Option:
    composed = hydra.compose("train", words)
    open_keys = sorted(OmegaConf.missing_keys(composed))
    for key in open_keys:  # such as data.root
        OmegaConf.update(composed, key, config.get(key, "DIR"))
    values = portable(checked(TrainConfig, composed))
    return _Option([*words, *(f"{key}={shown(config.get(key, 'DIR'))}" for key in open_keys)], flatten({key: values[key] for key in OWN}))


def _distance(one: Mapping[str, Any], other: Mapping[str, Any], group: str) -> int:
    """Keys in which they differ; the folder is asked for by the groups that need one."""
    keys = {key for key in (*one, *other) if key.startswith(f"{group}.")} - {"data.root"}
    return sum(one.get(key) != other.get(key) for key in keys)

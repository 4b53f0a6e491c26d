"""A run of the command line, in this process."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import hydra
from filelock import FileLock
from omegaconf import OmegaConf

from visionlora.cli.command import slug
from visionlora.cli.conf import conf_dir
from visionlora.common.config import checked
from visionlora.runs.config import TrainConfig
from visionlora.training.run import run

SILENT = ("callbacks=none", "trainer.enable_progress_bar=false", "logger={}")


T = TypeVar("T")


def composed(*words: str) -> TrainConfig:
    """The checked config of ``visionlora.train WORDS``."""
    return composed_as(TrainConfig, "train", *words)


def composed_as(kind: type[T], command: str, *words: str) -> T:
    """The checked config of ``visionlora.COMMAND WORDS``."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return checked(kind, hydra.compose(command, list(words)))


def of_data(**values: Any) -> list[str]:
    """``data.KEY=VALUE`` of each that is given."""
    return [f"data.{key}={value}" for key, value in values.items() if value is not None]


def figures(*words: str) -> dict[str, Any]:
    """What ``results.json`` of ``visionlora.train WORDS`` says; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return run(composed(*SILENT, *words), Path(folder, "run"))


def keep(results: Path, value: Any, *keys: str) -> None:
    """Write ``value`` under ``keys`` into a JSON file, beside what other processes have written there meanwhile."""
    with FileLock(Path(tempfile.gettempdir(), f"{results.name}.lock")):
        known: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
        place = known
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        results.write_text(json.dumps(known, indent=1) + "\n")

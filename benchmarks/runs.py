"""A run of the command line, in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import hydra
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


def figures(*words: str) -> dict[str, Any]:
    """What ``results.json`` of ``visionlora.train WORDS`` says; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return run(composed(*SILENT, *words), Path(folder, "run"))

"""Going on with a run: its own config, with the overrides of this command line on top."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from visionlora.config import TrainConfig, checked
from visionlora.errors import UserError
from visionlora.run_folder import RunFolder

OWN = ("model", "data", "lora", "optim", "trainer", "seed")
"""Sections a resumed run takes from its folder. Callbacks and loggers come from the command line: they name classes to make,
and nothing read from a run folder is ever instantiated."""
_PLANNED = ("optim", "data.batch_size", "trainer.max_epochs", "trainer.accumulate_grad_batches")
"""What the learning-rate schedule was laid out for."""


def resumed_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """``config`` itself for a new run; for ``ckpt_path`` in a run's own folder, that run's config.

    Raises:
        UserError: an override would make it another run.
    """
    run = RunFolder(folder)
    if config.ckpt_path is None or not run.config.is_file():
        return config
    saved = run.read_config()
    given = OmegaConf.create(portable(config))
    for key in found_keys(saved):
        OmegaConf.update(given, key, OmegaConf.select(saved, key))
    resumed = OmegaConf.merge(given, {key: saved[key] for key in OWN if key in saved})
    assert isinstance(resumed, DictConfig)
    for key in _overridden():
        if key.split(".")[0] not in OWN:
            continue
        old, new = OmegaConf.select(saved, key), OmegaConf.select(given, key)
        if old == new:
            continue
        is_group = "." not in key and key != "seed"
        if is_group or key == "seed" or key.startswith(("model.", "lora.")) or any(key.startswith(planned) for planned in _PLANNED):
            shown = "" if is_group else f" ({old}, not {new})"
            raise UserError(f"the run in {folder} was laid out with another {key}{shown}; leave it out to go on, or start a new run.")
        OmegaConf.update(resumed, key, new)
    return checked(TrainConfig, resumed)


def found_keys(saved: DictConfig) -> list[str]:
    """Keys that a finder has set in the run's config: their values were not asked for."""
    finders = {"data.batch_size": saved.trainer.get("batch_size") == "auto", "optim.lr": bool(saved.trainer.get("lr_find"))}
    return [key for key, on in finders.items() if on]


def portable(config: TrainConfig) -> dict[str, Any]:
    """The config as it is written down: paths as they are from any folder."""
    values = asdict(config)
    values["data"]["root"] = str(Path(config.data.root).absolute())
    if config.model.weights is not None and not config.model.weights.startswith("pip:"):
        values["model"]["weights"] = str(Path(config.model.weights).absolute())
    return values


def _overridden() -> list[str]:
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    return [override.key_or_group for override in overrides]

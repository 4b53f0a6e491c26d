"""A run's own config, with the overrides of this command line on top: to go on with the run, or to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from visionlora.cli.overrides import parsed
from visionlora.common.config import checked
from visionlora.common.errors import UserError
from visionlora.common.reading import read_json
from visionlora.runs.config import OF_THE_RUN, OWN, TrainConfig, portable, usual_rate
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import found_keys, left_open

_PLANNED = ("optim", "data.batch_size", "trainer.max_epochs", "trainer.accumulate_grad_batches")
"""What the learning-rate schedule was laid out for."""


def resumed_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """``config`` itself for a new run; for ``ckpt_path`` in a run's own folder, that run's config.

    Raises:
        UserError: an override would make it another run.
    """
    run = RunFolder(folder)
    if config.ckpt_path is None:
        return config
    if not run.config.is_file():
        if config.ckpt_path in ("last", "best") and run.resumable:
            raise UserError(f"{run.config} is missing: it says how the run was laid out, and it cannot be gone on without.")
        return config
    saved = run.read_config()
    given = OmegaConf.create(portable(config))
    for key in (*found_keys(saved), *left_open(given)):
        OmegaConf.update(given, key, OmegaConf.select(saved, key, default=OmegaConf.select(given, key)))
    resumed = OmegaConf.merge(given, {key: saved[key] for key in OWN if key in saved})
    assert isinstance(resumed, DictConfig)
    for key in _parsed(HydraConfig.get().overrides.task):
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


def repeated_config(config: TrainConfig, words: Sequence[str]) -> TrainConfig:
    """``config`` itself, or with ``again=RUN`` the config of the run in that folder.

    What ``words`` set beside it wins: a key itself, a group (``lora=dora``) its whole section. A learning rate that was the usual one
    of the run's method is the usual one of what is trained now.

    Args:
        config: of this command line.
        words: its overrides.

    Raises:
        UserError: not a run, a damaged config, or something that the run depended on cannot be taken from its folder.
    """
    if config.again is None:
        return config
    run, overrides = RunFolder(config.again), _parsed(words)
    if not run.config.is_file():
        raise UserError(f"again={config.again} is not a run folder: it has no config.yaml (a run is what visionlora.train wrote).")
    if "experiment" in overrides:
        raise UserError(f"again={config.again} has settings of its own, and so has an experiment; name the keys that are to differ.")
    saved, given = run.read_config(), OmegaConf.create(portable(config))
    _refuse_what_is_not_taken(config, saved, overrides)
    repeated = OmegaConf.create({**portable(config), **{key: run.read_section(key) if key != "seed" else saved.get(key) for key in OWN}})
    if "ckpt_path" not in overrides:
        repeated.ckpt_path = saved.get("ckpt_path") if saved.get("ckpt_path") not in OF_THE_RUN else None
    asked = config if "optim" in overrides else checked(TrainConfig, repeated)
    usual = overrides["optim.lr"] is None if "optim.lr" in overrides else _rate_was_left_open(run, asked, overrides)
    for key in overrides:
        if key.split(".")[0] in OWN:
            OmegaConf.update(repeated, key, OmegaConf.select(given, key), merge=False, force_add=True)
    if usual:
        repeated.optim.lr = None
    return checked(TrainConfig, repeated)


def _rate_was_left_open(run: RunFolder, asked: TrainConfig, overrides: Mapping[str, Any]) -> bool:
    """Whether the run's learning rate was a recipe's (in runs of earlier versions the usual one), and what it goes by is another now."""
    if not run.recipe.is_file():
        return asked.optim.lr == usual_rate(asked.optim.name, asked.lora)
    chosen = {
        str(one.get("key")) for one in read_json(run.recipe).get("choices", []) if isinstance(one, dict) and one.get("instead") is None
    }
    return "optim.lr" in chosen and any(key.split(".")[0] in ("lora", "optim", "model", "recipe") for key in overrides)


def _refuse_what_is_not_taken(config: TrainConfig, saved: DictConfig, overrides: Mapping[str, Any]) -> None:
    """Nothing read from a folder is made an object, and a run from its start does not end as one that went on from its best epoch did."""
    if saved.get("ckpt_path") == "best":
        raise UserError(f"again={config.again} went on from its best checkpoint; no run from the start ends with the same figures.")
    theirs = saved.get("callbacks")
    named = {str(name): node for name, node in theirs.items()} if isinstance(theirs, DictConfig) else {}
    others = [name for name, node in named.items() if node != config.callbacks.get(name)]
    if others and not any(key.split(".")[0] == "callbacks" for key in overrides):
        raise UserError(
            f"again={config.again} had callbacks.{others[0]}, which this command line has not or otherwise, and no class is made from a"
            f" run's folder; give it (callbacks={others[0]} if it is one of conf/callbacks), or callbacks=default to do without."
        )


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """Key or group of each override, with its value."""
    overrides = parsed(words)
    return {override.key_or_group: override.value() for override in overrides}

"""Sweeps: ready ones by name, going on with an interrupted one, and a list at the end of what became of each run. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from visionlora.cli.launch import requeued
from visionlora.cli.overrides import parsed
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.processes import sweep_workers_ending
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import same_run


def expanded(arguments: Sequence[str], folder: Path) -> list[str]:
    """The command line with ``sweep=NAME`` replaced by ``-m`` and what ``NAME.yaml`` in ``folder`` sweeps over; run folders are
    named by what is swept.

    Hydra's own way, ``hydra.sweeper.params``, multiplies with the command line: with ``seed=0`` there, it would run each seed's job
    under seed 0. Here a key of the command line takes the place of the file's.

    Raises:
        UserError: there is no such sweep.
    """
    given = [argument for argument in arguments if argument.startswith("sweep=")]
    if not given:
        return _named([*arguments])
    name, known = given[-1].removeprefix("sweep="), sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"sweep={name} is not a sweep; there are {', '.join(known)}.{did_you_mean(name, known)}")
    keys = {argument.partition("=")[0] for argument in arguments}
    swept = OmegaConf.load(folder / f"{name}.yaml")
    ours = [f"{key!s}={values}" for key, values in swept.items() if key not in keys]
    rest = [argument for argument in arguments if not argument.startswith("sweep=") and argument not in ("-m", "--multirun")]
    return _named(["-m", *ours, *rest])


def _named(arguments: list[str]) -> list[str]:
    if not {"-m", "--multirun"} & set(arguments):
        return arguments
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    try:
        settings = parsed(overrides)
    except OverrideParseException:  # Hydra tells it
        return arguments
    if not any(o.is_sweep_override() for o in settings):
        return arguments
    keys = [o.get_key_element() for o in settings if not o.is_sweep_override()]
    fixed = [key.removeprefix("++") for key in keys if not key.startswith(("hydra", "~", "+")) or re.fullmatch(r"\+\+data\.\w+", key)]
    return [*arguments, f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"]


def sweeping() -> bool:
    """Whether this job is one of a multirun."""
    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def continued(config: TrainConfig, folder: Path) -> TrainConfig | None:
    """What is left to do of one job of a sweep, or of a job that SLURM runs again.

    Returns:
        ``config`` for all of it, ``config`` with a ``ckpt_path`` for the rest, ``None`` where it is finished.
    """
    run = RunFolder(folder)
    if not (sweeping() or requeued()) or not run.used or not same_run(config, run):
        return config
    if run.finished:
        run.error.unlink(missing_ok=True)
        print(f"{run.path.name} is finished already.")
        return None
    return replace(config, ckpt_path="last") if config.ckpt_path is None and run.resumable else config


class SweepSummary(Callback):
    """Hydra calls it around a multirun: lists its runs at the end, with why one broke."""

    failed = 0
    """Runs that broke in the last multirun of this process."""
    folder = ""
    """Of the last multirun of this process."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note its folder, for whoever interrupts it, and see that its processes end with this one."""
        SweepSummary.folder = str(config.hydra.sweep.dir)
        if "joblib" in str(config.hydra.launcher.get("_target_")):
            sweep_workers_ending()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the list."""
        folder = Path(config.hydra.sweep.dir)
        runs = [run for run in map(RunFolder, sorted(folder.iterdir())) if run.path.is_dir() and (run.used or run.error.exists())]
        SweepSummary.failed = sum(run.broke for run in runs)
        if runs and config.hydra.job.name == "train":
            from visionlora.reporting.tables import print_sweep

            print_sweep(runs, folder)

"""An Optuna study whose trials are runs of ``visionlora.train``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import optuna
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from visionlora.cli.conf import conf_dir
from visionlora.cli.resume import repeated_config
from visionlora.cli.search_config import SearchConfig, SpaceConfig
from visionlora.common.config import checked
from visionlora.common.disk import STANDS, disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.files import inside, replace_file
from visionlora.common.rows import shown
from visionlora.reporting.tables import print_search
from visionlora.runs.claim import claimed
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.tasks.registry import kind_of
from visionlora.tasks.words import higher_is_better
from visionlora.training.run import run

STUDY = "study.journal"
"""Optuna's journal in the search's folder: a file that survives being cut off at any point."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Unusable(Exception):  # noqa: N818 nobody sees it
    """A trial that could not run; it does not count."""


class Pruning(Callback):
    """Reports each epoch's validation to the trial, and ends the run when others were better at the same epoch."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.metric not in trainer.callback_metrics:
            known = ", ".join(sorted(key for key in trainer.callback_metrics if key.startswith("val/")))
            raise UserError(f"metric={self.metric} is not measured in training; there are {known}.")
        self.trial.report(float(trainer.callback_metrics[self.metric]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def run_study(config: SearchConfig, folder: Path) -> dict[str, Any]:
    """Run trials until ``search.trials`` have ended, those of earlier calls in the same folder included.

    Returns:
        Overrides of the best trial, key -> value.

    Raises:
        UserError: no validation part to choose by, a folder with another search, or no trial that came to its end.
    """
    wanted, common = config.search, own_overrides()
    if str(config.trainer.get("strategy", "auto")) != "auto":
        raise UserError("visionlora.search runs its trials in one process each; leave trainer.strategy at auto.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    metric = config.metric
    study = open_study(wanted, config.task, metric, common, folder, config.seed)
    left = wanted.trials - len(study.get_trials(states=ENDED))
    if left > 0:
        study.optimize(
            lambda trial: objective(trial, wanted, metric, common, folder), n_trials=left, timeout=wanted.timeout, catch=(Unusable,)
        )
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise UserError("no trial came to its end; the sentences above say why.")
    command = " ".join(map(shlex.quote, ["python", "-m", "visionlora.train", *common, *overrides_of(study.best_trial)]))
    replace_file(inside(folder, "best.txt"), f"{command}\n".encode())
    print_search(study, metric, command, folder)
    return dict(study.best_params)


def open_study(wanted: SpaceConfig, task: dict[str, Any], metric: str, common: list[str], folder: Path, seed: int) -> optuna.Study:
    """The study of the folder, a new one or that of an earlier call.

    Raises:
        UserError: the folder holds a search of other settings.
    """
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
    begun = len(list((folder / "trials").glob("*")))
    study = optuna.create_study(
        study_name="visionlora",
        storage=storage,
        load_if_exists=True,
        direction="maximize" if higher_is_better(metric, kind_of(task)) else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=wanted.startup),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=wanted.startup) if wanted.prune else optuna.pruners.NopPruner(),
    )
    settled = {"space": wanted.space, "common": common, "metric": metric}
    if study.user_attrs and study.user_attrs != settled:
        differs = next(key for key, value in settled.items() if study.user_attrs.get(key) != value)
        names = {"space": "search.space", "common": "the runs' settings", "metric": "search.metric"}
        raise UserError(f"{folder} holds a search with other values of {names[differs]}; give the same, or choose another hydra.run.dir.")
    for key, value in settled.items():
        study.set_user_attr(key, value)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # an earlier call was interrupted in it
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def objective(trial: Trial, wanted: SpaceConfig, metric: str, common: list[str], folder: Path) -> float:
    """Train with the trial's settings in a run folder of its own; the figure to be improved."""
    for key, values in wanted.space.items():
        suggest(trial, key, values)
    own = folder / "trials" / f"{trial.number:03d}"
    try:
        with claimed(RunFolder(own)):
            results = run(compose([*common, *overrides_of(trial)]), own, [Pruning(trial, metric)])
    except UserError as error:  # such as a target the model does not have; the other trials may do
        if trouble := disk_trouble(error):  # they may not
            raise UserError(f"{trouble} {STANDS}") from None
        print(f"error: trial {trial.number}: {error}", file=sys.stderr)
        raise Unusable from None
    if metric not in results:
        raise UserError(f"search.metric={metric}: the runs have none; it needs a validation part (data.val_fraction above 0).")
    return float(results[metric])


def suggest(trial: Trial, key: str, values: Any) -> Any:
    """A value for ``key`` from a list of choices or ``{low, high, log}``."""
    if isinstance(values, list):
        words = [shown(value) for value in values]
        return trial.suggest_categorical(key, words)
    low, high, log = values["low"], values["high"], values["log"]
    whole = isinstance(low, int) and isinstance(high, int)
    return trial.suggest_int(key, low, high, log=log) if whole else trial.suggest_float(key, low, high, log=log)


def overrides_of(trial: Trial | FrozenTrial) -> list[str]:
    """The trial's settings as words of the command line."""
    return [f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.params.items()]


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The checked config of ``visionlora.train OVERRIDES``."""
    instance = GlobalHydra.instance()
    outer = instance.hydra
    instance.clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return repeated_config(checked(TrainConfig, hydra.compose("train", list(overrides))), overrides)
    finally:
        instance.hydra = outer


def own_overrides() -> list[str]:
    """The command line's words for the runs, without the search's own."""
    return [word for word in HydraConfig.get().overrides.task if not word.lstrip("+~").startswith("search.")]

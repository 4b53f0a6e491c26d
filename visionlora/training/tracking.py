"""What goes to trackers beside Lightning's metrics: settings at the start; metrics, plots and the adapter at the end."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import matplotlib.image
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from visionlora.common.disk import disk_trouble
from visionlora.common.errors import UserError
from visionlora.common.rows import is_number
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import flatten
from visionlora.runs.metrics import RunLogger
from visionlora.runs.provenance import is_provenance

HOW_OFFLINE = {
    "WandbLogger": "log in with `wandb login`, or stay offline with logger.wandb.offline=true",
    "MLFlowLogger": "see that logger.mlflow.tracking_uri can be reached",
}
CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")
"""What Lightning asks of a logger while it trains."""
_LEFT_OUT: WeakSet[Logger] = WeakSet()
"""Those that have failed."""


def begin(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Log the resolved config as hyperparameters. A tracker that fails later stops no run: it is told, and left out from there on.

    Raises:
        UserError: a tracker cannot be reached; nothing has been trained yet.
    """
    for logger in loggers:
        try:
            logger.log_hyperparams(flatten(config))
        except Exception as error:  # each tracker has its own
            name = type(logger).__name__
            raise UserError(f"{name} cannot be used: {_reason(error)}; {HOW_OFFLINE.get(name, 'leave it out of logger')}.") from None
        if not isinstance(logger, RunLogger):  # the run's own metrics.csv is a part of the run
            _forgive(logger)


def _forgive(logger: Logger) -> None:
    """Let none of the calls that Lightning makes raise an error; after the first one they do nothing."""

    def forgiven(call: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(call)
        def attempt(*args: Any, **kwargs: Any) -> None:
            if logger in _LEFT_OUT:
                return
            try:
                call(*args, **kwargs)
            except Exception as error:  # a disk that is full, a server that is gone
                _LEFT_OUT.add(logger)
                print(f"{type(logger).__name__} is left out from here on, the run goes on: {_reason(error)}.", file=sys.stderr)

        return attempt

    for name in CALLS:
        setattr(logger, name, forgiven(getattr(logger, name)))


def _reason(error: Exception) -> str:
    return (disk_trouble(error) or " ".join(str(error).split())[:300]).rstrip(".")


@contextlib.contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """What breaks inside closes the trackers as failed: the next run of a sweep or search is another one."""
    try:
        yield
    except BaseException:
        for logger in loggers:
            with contextlib.suppress(Exception):
                if isinstance(logger, WandbLogger):
                    import wandb

                    wandb.finish(exit_code=1)
                else:
                    logger.finalize("failed")
        raise


def end(loggers: Sequence[Logger], run: RunFolder, results: Mapping[str, Any], step: int) -> None:
    """Log the metrics of ``results.json``, the run's plots, and the adapter as an artifact (TensorBoard has none: where it is)."""
    figures = {key: float(value) for key, value in results.items() if is_number(value) and not is_provenance(key)}
    pictures = sorted(run.path.glob("*.png"))
    for logger in loggers:
        if logger in _LEFT_OUT:
            continue
        try:
            _end(logger, run, results, figures, pictures, step)
        except Exception as error:  # the run itself is finished and written
            print(f"{type(logger).__name__} did not take the figures and the adapter: {_reason(error)}.", file=sys.stderr)


def _end(
    logger: Logger, run: RunFolder, results: Mapping[str, Any], figures: dict[str, float], pictures: Sequence[Path], step: int
) -> None:
    if isinstance(logger, WandbLogger):
        import wandb

        experiment = logger.experiment
        experiment.summary.update(figures)
        experiment.log({picture.stem: wandb.Image(str(picture)) for picture in pictures})
        artifact = wandb.Artifact(f"adapter-{experiment.id}", type="model", metadata=dict(results))
        artifact.add_dir(str(run.adapter))
        experiment.log_artifact(artifact)
        wandb.finish()  # the next run of a sweep is another one
    elif isinstance(logger, MLFlowLogger):
        logger.log_metrics(figures, step)
        assert logger.run_id is not None
        for picture in pictures:
            logger.experiment.log_artifact(logger.run_id, str(picture), "figures")
        logger.experiment.log_artifacts(logger.run_id, str(run.adapter), "adapter")
        logger.finalize("success")
    elif isinstance(logger, TensorBoardLogger):
        logger.log_metrics(figures, step)
        for picture in pictures:
            logger.experiment.add_image(picture.stem, matplotlib.image.imread(picture)[..., :3], step, dataformats="HWC")
        logger.experiment.add_text("adapter", str(run.adapter), step)
        logger.finalize("success")

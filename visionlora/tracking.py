"""What goes to trackers beside Lightning's metrics: settings at the start; figures, pictures and the adapter at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from visionlora.errors import UserError
from visionlora.reporting.runs import flatten
from visionlora.rows import is_number
from visionlora.run_folder import RunFolder
from visionlora.runs.provenance import is_provenance

HOW_OFFLINE = {
    "WandbLogger": "log in with `wandb login`, or stay offline with logger.wandb.offline=true",
    "MLFlowLogger": "see that logger.mlflow.tracking_uri can be reached",
}


def begin(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Log the resolved config as hyperparameters.

    Raises:
        UserError: a tracker cannot be reached; nothing has been trained yet.
    """
    for logger in loggers:
        try:
            logger.log_hyperparams(flatten(config))
        except Exception as error:  # each tracker has its own
            name, reason = type(logger).__name__, " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{name} cannot be used: {reason[:300]}; {HOW_OFFLINE.get(name, 'leave it out of logger')}.") from None


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
    """Log the figures of ``results.json``, the run's pictures, and the adapter as an artifact (TensorBoard has none: where it is)."""
    figures = {key: float(value) for key, value in results.items() if is_number(value) and not is_provenance(key)}
    pictures = sorted(run.path.glob("*.png"))
    for logger in loggers:
        try:
            _end(logger, run, results, figures, pictures, step)
        except Exception as error:  # the run itself is finished and written
            print(
                f"{type(logger).__name__} did not take the figures and the adapter: {' '.join(str(error).split())[:300]}", file=sys.stderr
            )


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

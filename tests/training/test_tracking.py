"""Trackers: settings, metrics, images and the adapter in each, offline."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY, command, results
from lightning.pytorch.loggers import Logger

from visionlora.training import tracking

ONE = (*TINY, *QUIET, "trainer.max_epochs=1")


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = command("train", *ONE, "logger=tensorboard", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "metrics.csv").is_file()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"val/top1", "train/loss", "params/trainable"} <= set(tags["scalars"])
    assert "curves" in tags["images"]
    assert "lora.r" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


@pytest.mark.slow
def test_wandb_and_mlflow_together(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    run = tmp_path / "run"
    trackers = ("logger=[wandb,mlflow]", "logger.wandb.offline=true", f"logger.mlflow.tracking_uri={store}")
    done = command("train", *ONE, *trackers, f"hydra.run.dir={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    client = mlflow.MlflowClient(store)
    (tracked,) = client.search_runs([client.get_experiment_by_name("visionlora").experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["lora.r"] == "4"
    assert tracked.data.metrics["test/top1"] == pytest.approx(results(run)["test/top1"])
    names = {file.path for folder in ("adapter", "figures") for file in client.list_artifacts(tracked.info.run_id, folder)}
    assert {"adapter/adapter_model.safetensors", "adapter/visionlora.json", "figures/curves.png"} <= names


@pytest.mark.slow
def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    """One sentence with the extra to install, and nothing is trained."""
    shadow = tmp_path / "shadow" / "sitecustomize.py"
    shadow.parent.mkdir()
    shadow.write_text(
        "import importlib.metadata as m, sys\n"
        "real = m.distribution\n"
        "def distribution(name):\n"
        "    if name == 'wandb': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.distribution = distribution\n"
        "sys.modules['wandb'] = None\n"
    )
    done = command("train", *ONE, "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}", env={"PYTHONPATH": str(shadow.parent)})
    assert done.returncode == 2
    assert 'pip install "visionlora[wandb]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_not_logged_in(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = command("train", *ONE, "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}", env={"HOME": str(tmp_path), "WANDB_API_KEY": ""})
    assert done.returncode == 2
    assert "logger.wandb.offline=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_tracker_that_fails_is_told_once_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Logger):
        name = version = None
        calls = 0

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            pass

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.calls += 1
            raise ValueError("cannot be logged") from OSError(errno.ENOSPC, "No space left on device")

    logger = Broken()
    tracking.begin([logger], {})
    for _ in range(2):
        logger.log_metrics({})
    logger.finalize("success")
    assert logger.calls == 1
    said = capsys.readouterr().err
    assert said == "Broken is left out from here on, the run goes on: No space left on device: the disk is full; make room.\n"

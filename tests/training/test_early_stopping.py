"""Early stopping, validations within an epoch, and patience in steps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY, command, compose, results
from lightning.pytorch.callbacks import Callback
from quickly import quickly

from visionlora.training.run import run

NEVER_BETTER = ("callbacks=early_stopping", "+callbacks.early_stopping.min_delta=1000")
LONG = (*TINY, *QUIET, "data.num_images=200", "data.batch_size=16", "trainer.max_epochs=9", "trainer.precision=32-true", *NEVER_BETTER)
STEPS_AN_EPOCH = 12  # 180 images for training


@pytest.mark.parametrize(
    ("overrides", "steps"),
    quickly(
        [
            (("callbacks.early_stopping.patience=2",), 3 * STEPS_AN_EPOCH),  # validations at the end of each epoch; the first is the best
            (("trainer.val_check_interval=4", "callbacks.early_stopping.patience_steps=5"), 12),
            (("callbacks.early_stopping.patience_steps=13",), 3 * STEPS_AN_EPOCH),
            (("callbacks.early_stopping.patience_steps=12",), 2 * STEPS_AN_EPOCH),
            (("trainer.val_check_interval=4", "callbacks.early_stopping.patience=2"), 12),
            (("trainer.val_check_interval=4", "callbacks.early_stopping.patience_steps=1"), 8),
            (("trainer.val_check_interval=0.5", "callbacks.early_stopping.patience_steps=12"), 18),
            (("trainer.val_check_interval=4", "callbacks.early_stopping.patience_steps=5", "trainer.accumulate_grad_batches=2"), 8),
            (("trainer.val_check_interval=20", "trainer.check_val_every_n_epoch=null", "callbacks.early_stopping.patience_steps=1"), 40),
        ],
        2,
        names=2,
    ),
)
def test_the_training_ends_where_it_should(overrides: tuple[str, ...], steps: int, tmp_path: Path) -> None:
    given = [word for word in (*LONG, *overrides) if not word.startswith("callbacks=none")]
    assert run(compose(*given, "logger={}"), tmp_path)["steps"] == steps


@pytest.mark.parametrize("average", quickly(["ema", "none"], 1))
def test_the_best_validation_within_an_epoch_is_kept(average: str, tmp_path: Path) -> None:
    """The weights of best.ckpt are those that the best line of metrics.csv was measured with, the running average or not."""
    given = ("trainer.val_check_interval=3", "trainer.max_epochs=2", "data.num_images=200", "data.batch_size=16")
    done = command(
        "train", *TINY, *QUIET, *given, f"optim.average={average}", "optim.average_decay=0.5", "optim.lr=0.01", f"hydra.run.dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["val/loss"]]
    assert len(rows) > 4
    best = max(range(len(rows)), key=lambda i: (float(rows[i]["val/top1"]), -i))
    done = command("evaluate", f"run={tmp_path}", "split=val", "figures=false")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation_val.json").read_text())
    assert found["val/loss"] == pytest.approx(float(rows[best]["val/loss"]), rel=1e-3)
    assert len({row["val/loss"] for row in rows}) > 3


def test_resumed_it_waits_as_long_as_uninterrupted(tmp_path: Path) -> None:
    words = [word for word in LONG if word != "callbacks=none"]
    words += ["trainer.val_check_interval=5", "callbacks.early_stopping.patience_steps=29"]
    whole = run(compose(*words, "logger={}"), tmp_path / "whole")
    assert whole["steps"] == 36 - 2  # 5, 10, 17, 22, 29, 34: the first that is 29 after the best, which is the first

    class Stop(Exception):  # noqa: N818
        pass

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise Stop

    with pytest.raises(Stop):
        run(compose(*words, "logger={}"), tmp_path / "parts", [Interrupt()])
    parts = run(compose(*words, "logger={}", "ckpt_path=last"), tmp_path / "parts")
    assert parts["steps"] == whole["steps"]
    assert parts["test/loss"] == whole["test/loss"]
    assert results(tmp_path / "parts")["checkpoint"] == results(tmp_path / "whole")["checkpoint"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("callbacks=early_stopping", "callbacks.early_stopping.patience_steps=0"), "patience_steps=0 must be at least 1"),
        (("trainer.val_check_interval=0",), "must be a number of batches"),
        (("trainer.val_check_interval=1.5",), "must be a number of batches"),
        (("trainer.val_check_interval=often",), "must be a number of batches"),
        (("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=0.5"), "as a number of batches"),
    ],
)
def test_wrong_settings(overrides: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done: Callable[..., Any] = command
    refused = done("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", *overrides)
    assert refused.returncode == 2
    assert words in refused.stderr

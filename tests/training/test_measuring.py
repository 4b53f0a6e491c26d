"""Which epoch is kept: the last one, unless another is better on the validation part beyond chance."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import QUIET, TINY, compose, results
from lightning.pytorch.callbacks import Callback
from model_parts import tensor

import visionlora as vl
from visionlora.training import measuring
from visionlora.training.run import run

SETTINGS = (
    *TINY,
    *QUIET,
    "data.num_images=48",
    "data.image_size=64",
    "data.val_fraction=0.25",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "optim.strength=all",
    "logger={}",
)


class FirstIsBest(Callback):
    """The best checkpoint is the one of the first epoch, whatever validation says."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints = folder / "checkpoints"

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            shutil.copy(self.checkpoints / "last.ckpt", self.checkpoints / "aside")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        shutil.move(self.checkpoints / "aside", self.checkpoints / "best.ckpt")


def kept(folder: Path, *overrides: str) -> str:
    """The name of the checkpoint that is kept, after a look whether its weights are those of the saved run."""
    run(compose(*SETTINGS, *overrides), folder, [FirstIsBest(folder)])
    found = str(results(folder)["checkpoint"])
    states = {name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"] for name in ("best", "last")}
    assert not torch.equal(states["best"]["fc.weight"], states["last"]["fc.weight"])
    assert torch.equal(tensor(vl.load(folder).model, "fc.weight"), states[found]["fc.weight"])
    return found


@pytest.mark.parametrize(
    ("chance", "overrides", "name"),
    [
        (0.0, ("recipe=auto",), "last"),
        (2.0, ("recipe=auto",), "best"),
        (0.0, ("recipe=plain",), "best"),
        (0.0, ("recipe=auto", "optim.schedule=constant"), "best"),
        (0.0, ("recipe=auto", "trainer.max_epochs=3", "trainer.max_steps=7"), "last"),
    ],
)
def test_an_epoch_before_the_last_is_kept_where_it_is_better_beyond_chance(
    chance: float,
    overrides: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measuring, "CHANCE", chance)
    assert kept(tmp_path / "run", *overrides) == name
    assert ("The last epoch is kept: " in capsys.readouterr().out) == (name == "last")

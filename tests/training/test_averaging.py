"""The running average of what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, command, compose, results
from safetensors.torch import load_file
from torch import nn

from visionlora.training.averaging import Average
from visionlora.training.run import run

TYPED = (*TINY, *QUIET, "trainer.precision=32-true", "data.num_images=48", "data.image_size=64", "data.batch_size=8")
SETTINGS = (*TYPED, "logger={}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_ema_and_swa_are_what_they_are_by_hand() -> None:
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for kind in ("ema", "swa"):
        layer = nn.Linear(3, 1, bias=False)
        average = Average(layer, kind, 0.5, 20)
        expected = values[0]
        for step, value in enumerate(values, start=1):
            with torch.no_grad():
                layer.weight.copy_(value)
            average.update(step)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = value if step == 1 else decay * expected + (1 - decay) * value
        if kind == "swa":
            expected = values[15:].mean(0)
        with average.in_place():
            torch.testing.assert_close(layer.weight[0].detach(), expected)
        torch.testing.assert_close(layer.weight[0].detach(), values[-1])


def test_what_is_frozen_is_not_in_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2))
    assert sorted(Average(model, "ema", 0.9, 1).values) == ["1.bias", "1.weight"]


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_resumed_equals_uninterrupted_bit_for_bit(kind: str, tmp_path: Path) -> None:
    words = [*TYPED, f"optim.average={kind}", "data.mixup=0.2", "data.cutmix=1.0", "data.repeats=2", "data.balance=sampler"]
    run(compose(*words, "logger={}", "trainer.max_epochs=3"), tmp_path / "whole")

    class Stop(Exception):  # noqa: N818
        pass

    from lightning.pytorch.callbacks import Callback

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise Stop

    with pytest.raises(Stop):
        run(compose(*words, "logger={}", "trainer.max_epochs=3"), tmp_path / "cut", [Interrupt()])
    done = command(
        "train", *[w for w in words if w != "logger={}"], "trainer.max_epochs=3", "ckpt_path=last", f"hydra.run.dir={tmp_path / 'cut'}"
    )
    assert done.returncode == 0, done.stderr
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert results(tmp_path / "whole")["test/loss"] == results(tmp_path / "cut")["test/loss"]


def test_the_average_is_saved_and_differs_from_the_last_weights(tmp_path: Path) -> None:
    run(compose(*SETTINGS, "trainer.max_epochs=2", "optim.average=ema", "optim.lr=0.01"), tmp_path / "ema")
    run(compose(*SETTINGS, "trainer.max_epochs=2", "optim.lr=0.01"), tmp_path / "none")
    ema, last = weights(tmp_path / "ema"), weights(tmp_path / "none")
    assert any(not torch.equal(ema[key], last[key]) for key in ema)

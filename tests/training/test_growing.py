"""Progressive resizing: small images first, whole ones at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, command, compose
from lightning.pytorch.callbacks import Callback
from quickly import quickly

from visionlora.training.growing import Growth
from visionlora.training.run import run

TYPED = (*TINY, *QUIET, "data.num_images=60", "data.image_size=64", "data.batch_size=8", "trainer.precision=32-true")
SHORT = (*TYPED, "trainer.max_epochs=4")
GROWING = (*SHORT, "logger={}", "data.progressive=0.5")


class Sides(Callback):
    """The sides of the images that the model was given, in training and in validation; stops before an epoch."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.train: list[int] = []
        self.val: set[int] = set()
        self.stop_before = stop_before

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def note(module: Any, given: Any) -> None:
            if trainer.training:
                self.train.append(given[0].shape[-1])
            else:
                self.val.add(given[0].shape[-1])

        pl_module.model.register_forward_pre_hook(note)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.stop_before:
            raise InterruptedError


def test_sides_rise_to_the_whole_and_stay() -> None:
    for side in (32, 64, 96, 224, 260):
        for start in (0.25, 0.5, 0.9):
            growth = Growth(start, side)
            sides = [growth.side_at(step / 100) for step in range(100)]
            assert sides == sorted(sides)
            assert sides[0] <= max(start * side, 16)
            assert set(sides[75:]) == {side}
            assert all(s % 8 == 0 for s in sides if s != side)
            assert set(sides) <= set(growth.sides())


def test_smaller_images_are_those_made_at_that_size() -> None:
    images = torch.rand(2, 3, 64, 64)
    smaller = Growth(0.5, 64).of(images, 0.0)
    wanted = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(smaller, wanted, atol=1e-6)
    assert Growth(0.5, 64).of(images, 0.9) is images


@pytest.mark.parametrize("crop", quickly(["[0.5,1.0]", "null"], 1))  # one image at a time, and whole batches
def test_training_grows_and_validation_does_not_and_a_resume_goes_on(crop: str, tmp_path: Path) -> None:
    words = [*GROWING, f"data.crop_scale={crop}"]
    whole = Sides()
    figures = run(compose(*words), tmp_path / "whole", [whole])
    assert whole.train[0] == 32
    assert whole.train == sorted(whole.train)
    assert set(whole.train[-7:]) == {64}
    assert whole.val == {64}
    with pytest.raises(InterruptedError):
        run(compose(*words), tmp_path / "parts", [Sides(stop_before=2)])
    later = Sides()
    resumed = run(compose(*words, "ckpt_path=last"), tmp_path / "parts", [later])
    assert later.train == whole.train[-len(later.train) :]
    assert len(later.train) == len(whole.train) // 2
    assert resumed["test/loss"] == figures["test/loss"]
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_cache_says_that_it_is_off(tmp_path: Path) -> None:
    done = command("train", *SHORT, "data.progressive=0.5", "trainer.max_epochs=1", "lora=none", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "data.cache=auto is off: data.progressive shows images in several sizes." in done.stdout


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.progressive=1.5",), "must be a share of the side"),
        (("data.progressive=0.5", "model.name=test_vit"), "cannot take images of"),
        (("data.progressive=0.5", "data.cache=memory"), "data.progressive shows images in several sizes"),
    ],
)
def test_what_cannot_be_is_told(overrides: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = command("train", *SHORT, f"hydra.run.dir={tmp_path}", *overrides)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr

"""Well-learned images are left out of some epochs, and on average the gradient stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, command, compose, results
from lightning.pytorch.callbacks import Callback

from visionlora.data.pruning import Pruning
from visionlora.training.pruned import joined
from visionlora.training.run import run

TYPED = (*TINY, *QUIET, "data.num_images=80", "data.image_size=64", "data.batch_size=8", "trainer.precision=32-true")
SHORT = (*TYPED, "trainer.max_epochs=4")
PRUNED = (*SHORT, "logger={}", "data.prune=0.6")


class Seen(Callback):
    """How many images each epoch has shown; stops before an epoch."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.images: dict[int, int] = {}
        self.stop_before = stop_before

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.images[trainer.current_epoch] = self.images.get(trainer.current_epoch, 0) + len(batch[1])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.stop_before:
            raise InterruptedError


def test_only_what_is_below_the_mean_is_left_out_and_the_expectation_stays() -> None:
    size, total, share = 4000, torch.zeros(4000), 0.5
    losses = torch.rand(size, generator=torch.Generator().manual_seed(0))
    losses[:100] = torch.nan  # not seen yet
    rounds = 40
    for seed in range(rounds):
        pruning = Pruning(size, share, seed, epochs=8)
        assert not pruning.skipped(0).any()
        pruning.load({"losses": losses, "left_out": 0})
        skipped, weights = pruning.skipped(1), pruning.weights(1, torch.arange(size))
        assert not skipped[:100].any()
        assert not skipped[losses >= losses.nanmean()].any()
        assert (weights[losses >= losses.nanmean()] == 1).all()
        total += weights * ~skipped
        assert not pruning.skipped(7).any()  # the last epoch
    below = losses < losses.nanmean()
    assert float(total[below].mean() / rounds) == pytest.approx(1, abs=0.02)
    assert (total[~below] == rounds).all()


def test_what_several_processes_have_found() -> None:
    nan = float("nan")
    before = torch.tensor([nan, 1.0, 2.0, nan])
    found = joined(before, [torch.tensor([0.5, 1.0, 2.0, nan]), torch.tensor([nan, 1.0, 3.0, nan])])
    assert torch.equal(found[:3], torch.tensor([0.5, 1.0, 3.0]))
    assert found[3].isnan()


def test_with_no_image_left_out_the_loss_is_the_usual_one(tmp_path: Path) -> None:
    """A share so small that no draw falls below it: the same weights as without, to rounding."""
    words = [word for word in SHORT if not word.startswith("trainer.max_epochs")] + ["logger={}", "trainer.max_epochs=2"]
    plain = run(compose(*words), tmp_path / "plain")
    same = run(compose(*words, "data.prune=1e-9"), tmp_path / "same")
    assert same["data/pruned"] == 0
    assert same["test/loss"] == pytest.approx(plain["test/loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("lora=none", "data.cache=memory"), ("data.crop_scale=null",), ("data.balance=sampler",)])
def test_epochs_get_smaller_the_last_is_whole_and_a_resume_is_bit_for_bit(more: tuple[str, ...], tmp_path: Path) -> None:
    """Images one at a time, whole batches, cached features, weighted draws."""
    seen = Seen()
    whole = run(compose(*PRUNED, *more), tmp_path / "whole", [seen])
    count = seen.images[0]
    assert seen.images[3] == count
    assert 0.3 * count < seen.images[1] < 0.95 * count
    assert whole["data/pruned"] > 0
    assert whole["steps"] == 4 * -(-count // 8)
    with pytest.raises(InterruptedError):
        run(compose(*PRUNED, *more), tmp_path / "parts", [Seen(stop_before=2)])
    later = Seen()
    resumed = run(compose(*PRUNED, *more, "ckpt_path=last"), tmp_path / "parts", [later])
    assert later.images == {epoch: seen.images[epoch] for epoch in (2, 3)}
    assert resumed["data/pruned"] == whole["data/pruned"]
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_worker_processes_and_broken_files(tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    root = class_folders(train={"cat": 40, "dog": 40}, test={"cat": 4, "dog": 4})
    (root / "train/cat/broken.png").write_bytes(b"no image")
    words = [word for word in SHORT if not word.startswith(("data=", "data.num_"))]
    given = ("data=imagefolder", f"data.root={root}", "data.max_bad=0.1", "data.prune=0.6", f"hydra.run.dir={tmp_path / 'run'}")
    done = command("train", *words, *given, "data.num_workers=1", "trainer.accumulate_grad_batches=2")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run")["data/pruned"] > 0
    assert results(tmp_path / "run")["data/unreadable"] == 1


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    done = command("train", *SHORT, "data.prune=0.6", "trainer=ddp", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)["data/pruned"] > 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.mixup=0.2",), "no loss is of one image"),
        (("data.balance=weights",), "take sampler or logit_adjustment"),
        (("trainer.overfit_batches=1",), "takes images of its own"),
        (("trainer.max_epochs=-1", "trainer.max_steps=9"), "which epochs are the last ones"),
        (("data.prune=1",), "must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_told(overrides: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = command("train", *SHORT, "data.prune=0.5", f"hydra.run.dir={tmp_path}", *overrides)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr

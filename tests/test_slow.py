"""Minutes each: the accuracy docs/accuracy.md claims, on CIFAR-10 images where they are to be had."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command, results

PICTURES = os.environ.get("VISIONLORA_CIFAR10", "")
pytestmark = pytest.mark.slow


@pytest.mark.skipif(not PICTURES, reason="VISIONLORA_CIFAR10 names no class folders of CIFAR-10 (train/CLASS/*, test/CLASS/*)")
def test_cifar10_experiment_reaches_what_the_readme_says(tmp_path: Path) -> None:
    scores = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        call = ("experiment=cifar10_lite0", f"data.root={PICTURES}", f"seed={seed}", f"hydra.run.dir={folder}", *QUIET)
        done = command("train", *call, timeout=3600, env={"OMP_NUM_THREADS": str(os.cpu_count() or 1)})
        assert done.returncode == 0, done.stderr
        scores.append(results(folder)["test/top1"])
    assert statistics.mean(scores) >= 0.86, scores


@pytest.mark.parametrize("more", [(), ("model.checkpointing=light",), ("model.checkpointing=blocks",), ("lora=dora",)])
def test_compiled_as_uncompiled(more: tuple[str, ...], tmp_path: Path) -> None:
    """``model.compile=true`` works with folding, checkpointing and methods, and ends where the uncompiled run does."""
    common = (*TINY, *QUIET, *more, "data.num_images=64", "trainer.max_epochs=2", "trainer.precision=32-true")
    scores = []
    for compile_ in ("false", "true"):
        folder = tmp_path / compile_
        done = command("train", *common, f"model.compile={compile_}", f"hydra.run.dir={folder}", timeout=900)
        assert done.returncode == 0, done.stderr
        scores.append(results(folder)["test/loss"])
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


def test_digits_over_several_seeds(tmp_path: Path) -> None:
    scores = []
    for seed in range(5):
        folder = tmp_path / str(seed)
        done = command("train", f"seed={seed}", f"hydra.run.dir={folder}", *QUIET, timeout=600)
        assert done.returncode == 0, done.stderr
        scores.append(results(folder)["test/top1"])
    assert statistics.mean(scores) >= 0.97, scores

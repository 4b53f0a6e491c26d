"""``train.log``: what happened in a run, for who comes later."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import QUIET, TINY, command


def test_it_tells_command_versions_data_epochs_and_the_end(tiny_run: Path) -> None:
    text = (tiny_run / "train.log").read_text()
    told = (
        r"python -m visionlora\.train .*data=fake",
        r"visionlora \d.*, torch \d.*, python 3",
        r"images: \d+ for training, \d+ for validation, 32 for test; 4 classes",
        r"What is trained of",
        r"epoch 1, step \d+: training loss \d.*validation top-1 accuracy \d+\.\d%",
        r"Top-1 accuracy went from .* Next: python -m visionlora",
        r"run folder: ",
    )
    for line in told:
        assert re.search(line, text), line
    assert "\x1b" not in text
    assert text.count("epoch 1, ") == 1


def test_a_resumed_run_goes_on_in_its_log(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    before = (run / "train.log").read_text()
    done = command("train", *TINY, *QUIET, "trainer.max_epochs=2", "ckpt_path=last", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    text = (run / "train.log").read_text()
    assert text.startswith(before)
    assert "goes on from a checkpoint" in text[len(before) :]
    assert "Top-1 accuracy went from" in text[len(before) :]


def test_it_tells_what_ended_the_run(tmp_path: Path) -> None:
    done = command("train", *TINY, *QUIET, "optim.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "ended by UserError: the training diverged" in (tmp_path / "run/train.log").read_text()


def test_a_mistake_told_at_once_leaves_no_log(tmp_path: Path) -> None:
    done = command("train", *TINY, *QUIET, "data.num_classes=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()

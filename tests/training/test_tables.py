"""What is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, compose

from visionlora.training.run import run

WORDS = (*(word for word in TINY if not word.startswith("data")), *QUIET, "logger={}", "trainer.max_steps=2", "data=imagefolder")


@pytest.mark.parametrize("fraction", [0.25, 0])
def test_without_a_test_part_the_validation_part_is_shown(
    fraction: float, tmp_path: Path, class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data.test_fraction=0", "data.folds=0", f"data.val_fraction={fraction}")
    run(compose(*WORDS, f"data.root={class_folders(train={'cat': 8, 'dog': 8})}", *words), tmp_path / "run")
    said = capsys.readouterr().out
    assert ("validation top-1 accuracy" in said.partition("Results")[2]) == bool(fraction)
    assert ("Results" in said) == bool(fraction)
    assert "There is n" in said

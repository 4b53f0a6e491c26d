"""``visionlora.search``."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command, compose, results

pytest.importorskip("optuna")
SPACE = "search.space={lora.r: [1,2], optim.lr: {low: 1e-4, high: 1e-2, log: true}, lora.alpha: null, lora.targets: null}"
CALL = (*TINY, *QUIET, "trainer.max_epochs=2", "search.startup=2", SPACE)


@pytest.mark.slow
def test_a_search_goes_on_and_names_its_best(tmp_path: Path) -> None:
    folder = f"hydra.run.dir={tmp_path}"
    first = command("search", *CALL, "search.trials=3", folder)
    assert first.returncode == 0, first.stderr
    trials = sorted((tmp_path / "trials").iterdir())
    assert len(trials) == 3
    second = command("search", *CALL, "search.trials=4", folder)
    assert second.returncode == 0, second.stderr
    assert len(list((tmp_path / "trials").iterdir())) == 4
    best = (tmp_path / "best.txt").read_text()
    assert best.strip() in second.stdout
    words = shlex.split(best)[3:]
    config = compose(*words)
    scores = {path.name: results(path)["val/top1"] for path in (tmp_path / "trials").iterdir() if (path / "results.json").exists()}
    number = max(sorted(scores), key=lambda name: scores[name])
    saved = (tmp_path / "trials" / number / "config.yaml").read_text()
    assert f"  lr: {config.optim.lr}" in saved
    assert f"  r: {config.lora.r}\n" in saved

    other = command("search", *CALL, "search.trials=4", "seed=1", folder)
    assert other.returncode == 2
    assert "holds a search with other values of the runs' settings" in other.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.space={lora.r: 4}", "lora.r=4 must be a list of choices"),
        ("search.space={optim.lr: {low: 1, high: 0.1}}", "must be a list of choices or {low: NUMBER, high: LARGER"),
        ("search.metric=test/top1", "settings are chosen by validation"),
        ("search.trails=4", "Did you mean 'search.trials'"),
        ("trainer.strategy=ddp", "leave trainer.strategy at auto"),
        ("data.val_fraction=0", "it needs a validation part"),
    ],
)
def test_mistakes(override: str, message: str, tmp_path: Path) -> None:
    done = command("search", *CALL, "search.trials=1", "trainer.max_epochs=1", override, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr

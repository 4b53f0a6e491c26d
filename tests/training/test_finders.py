"""Lightning's finders before the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import QUIET, TINY, command, results

FIND = (*TINY, *QUIET, "data.num_images=400", "trainer.max_epochs=1", "trainer.precision=32-true")


@pytest.mark.slow
def test_what_is_found_is_used_and_the_weights_are_as_before(tmp_path: Path) -> None:
    found, plain = tmp_path / "found", tmp_path / "plain"
    done = command("train", *FIND, "trainer.lr_find=true", "trainer.batch_size=auto", f"hydra.run.dir={found}")
    assert done.returncode == 0, done.stderr
    figures, config = results(found), yaml.safe_load((found / "config.yaml").read_text())
    size, rate = figures["found/batch_size"], figures["found/lr"]
    assert config["data"]["batch_size"] == size
    assert config["optim"]["lr"] == rate
    assert 8 <= size <= 400 // 8
    assert 1e-5 < rate < 0.3
    assert (found / "lr_find.png").stat().st_size > 5_000
    assert (found / "figures" / "lr_find.pdf").read_bytes().startswith(b"%PDF")
    done = command("train", *FIND, f"optim.lr={rate}", f"data.batch_size={size}", f"hydra.run.dir={plain}")
    assert done.returncode == 0, done.stderr
    assert results(plain)["test/loss"] == pytest.approx(figures["test/loss"], rel=1e-5)


def test_a_number_belongs_elsewhere(tmp_path: Path) -> None:
    done = command("train", *FIND, "trainer.batch_size=32", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2
    assert "a number is given as data.batch_size" in done.stderr

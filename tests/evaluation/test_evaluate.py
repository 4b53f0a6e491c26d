"""``visionlora.evaluate`` as a user runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command, results


def test_figures_classes_and_pictures(tiny_run: Path) -> None:
    done = command("evaluate", f"run={tiny_run}", "temperature=true")
    assert done.returncode == 0, done.stderr
    for shown in ("precision", "weighted avg", "class3", "test/ece", "temperature"):
        assert shown in done.stdout
    measured = json.loads((tiny_run / "evaluation_test.json").read_text())
    assert measured["test/top1"] == pytest.approx(results(tiny_run)["test/top1"], abs=0.05)
    assert measured["test/top1_low"] <= measured["test/top1"] <= measured["test/top1_high"]
    assert {"confusion.png", "reliability.png", "classes.json"} <= {path.name for path in (tiny_run / "evaluation_test").iterdir()}


def test_comparison_of_several_runs(tiny_run: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    done = command("train", *TINY, *QUIET, "lora=full", "trainer.max_epochs=1", f"hydra.run.dir={full}")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", f"run=[{tiny_run},{full}]", "compare=true")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tiny_run / "comparison_test.json").read_text())
    assert [row["name"] for row in rows] == ["untouched backbone, probe", tiny_run.name, "full"]
    assert rows[0]["test/top1"] > 0.9  # colours are easily told apart by a probe
    assert rows[0]["p"] is None
    pictures, differ = 32, abs(rows[1]["test/top1"] - rows[0]["test/top1"])
    # That many more are right in one of the two: the least p is where no other picture is right in one only.
    assert (rows[1]["p"] < 1) == (differ > 0)
    assert rows[1]["p"] >= 2 * 0.5 ** round(pictures * differ) or not differ
    assert rows[2]["trainable"] == results(full)["params/total"]
    assert all(row["images_per_second"] > 0 and row["model_bytes"] > 1_000_000 for row in rows)
    done = command("evaluate", f"run=[{tiny_run},{full}]")
    assert done.returncode == 0, done.stderr
    assert (full / "evaluation_test.json").is_file()


def test_other_data(tiny_run: Path, tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    names = [f"class{i}" for i in range(4)]
    root = class_folders(train=dict.fromkeys(names, 8), test=dict.fromkeys(names, 3))
    done = command("evaluate", f"run={tiny_run}", "data=imagefolder", f"data.root={root}", "figures=false")
    assert done.returncode == 0, done.stderr
    assert "12" in done.stdout
    wrong = class_folders(root=tmp_path / "other", train={"class0": 8, "zebra": 8})
    refused = command("evaluate", f"run={tiny_run}", "data=imagefolder", f"data.root={wrong}")
    assert refused.returncode == 2
    assert "the data's classes are not the run's" in refused.stderr
    assert "zebra" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data=imagefoldr",), "data=imagefoldr is not a config of data.*Did you mean 'imagefolder'"),
        (("split=testing",), "split=testing is unknown"),
        (("data=imagefolder", "data.root=nowhere"), "nowhere"),
        (("data=imagefolder",), "data.root is not set"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tiny_run: Path) -> None:
    done = command("evaluate", f"run={tiny_run}", *words)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr

"""``visionlora.evaluate`` as a user runs it."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, command, results
from PIL import Image

import visionlora as vl


def test_figures_classes_and_pictures(tiny_run: Path) -> None:
    done = command("evaluate", f"run={tiny_run}", "temperature=true")
    assert done.returncode == 0, done.stderr
    for shown in ("precision", "weighted avg", "class3", "calibration error", "temperature"):
        assert shown in done.stdout
    measured = json.loads((tiny_run / "evaluation_test.json").read_text())
    assert measured["test/top1"] == pytest.approx(results(tiny_run)["test/top1"], abs=0.05)
    assert measured["test/top1_low"] <= measured["test/top1"] <= measured["test/top1_high"]
    written = {path.name for path in (tiny_run / "evaluation_test").iterdir()}
    assert {"confusion.png", "reliability.png", "classes.json", "predictions.csv"} <= written
    assert f"{measured['test/top1']:.1%}" in done.stdout  # as train writes it


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_picture_and_its_probabilities(tiny_run: Path, class_folders: Callable[..., Path]) -> None:
    """The rows are those that vl.load gives one by one, and the mistakes among them are the page's, with links to their files."""
    names = [f"class{i}" for i in range(4)]
    root = class_folders(train=dict.fromkeys(names, 10), test=dict.fromkeys(names, 5))
    Image.open(next((root / "test/class2").iterdir())).save(root / "test/class0/a class2 & <b>.png")
    (root / "test/class1/broken.png").write_bytes(b"no image")
    done = command("evaluate", f"run={tiny_run}", "data=imagefolder", f"data.root={root}")
    assert done.returncode == 0, done.stderr
    folder = tiny_run / "evaluation_test_imagefolder"
    found = rows_of(folder / "predictions.csv")
    assert len(found) == 22
    broken = found.pop()
    assert broken["file"].endswith("class1/broken.png")
    assert broken["error"]
    predictions = vl.load(tiny_run).predict([row["file"] for row in found], topk=4)
    for row, prediction in zip(found, predictions, strict=True):
        assert row["true"] == Path(row["file"]).parent.name
        assert row["predicted"] == prediction.labels[0]
        assert float(row["probability"]) == pytest.approx(prediction.probabilities[0], abs=2e-5)
        assert float(row["probability_of_true"]) == float(row[f"probability of {row['true']}"])
        for name, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            assert float(row[f"probability of {name}"]) == pytest.approx(probability, abs=2e-5)
    wrong = {Path(row["file"]).resolve().as_uri() for row in found if row["true"] != row["predicted"]}
    page = (folder / "mistakes.html").read_text()
    assert set(re.findall(r'<a href="(file:[^"]*)"', page)) == {html.escape(uri) for uri in wrong}
    assert any("a%20class2" in uri for uri in wrong)
    assert "&lt;b&gt;.png" in page
    assert "<b>" not in page


def test_a_page_of_mistakes_goes_when_there_are_none(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    stale = run / "evaluation_test/mistakes.html"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("of an earlier model")
    done = command("evaluate", f"run={run}")
    assert done.returncode == 0, done.stderr
    all_right = json.loads((run / "evaluation_test.json").read_text())["test/top1"] == 1
    assert stale.exists() == (not all_right)
    assert not stale.exists() or "of an earlier model" not in stale.read_text()


@pytest.mark.slow
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
    # That many more are right in one of the two: the least p is where no other image is right in one only.
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

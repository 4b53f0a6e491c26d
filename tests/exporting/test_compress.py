"""``visionlora.compress``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET, TINY, command, results

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned its colours, so that there is an accuracy to lose."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    training = ("data.num_images=200", "lora=full", "optim.lr=3e-3", "trainer.max_epochs=4")
    done = command("train", *TINY, *QUIET, *training, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert results(folder)["test/top1"] > 0.9
    return folder


def test_int8_and_pruning_beside_the_float_model(learned: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in learned.rglob("*") if path.is_file()}
    done = command("compress", f"run={learned}", "prune=[0.3,0.9]", "calibration=32")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = {row["name"]: row for row in json.loads((learned / "compress" / "results.json").read_text())}
    assert list(rows) == ["float32", "int8", "pruned 30%", "pruned 90%"]
    assert rows["float32"]["top1"] == pytest.approx(results(learned)["test/top1"], abs=0.05)
    assert rows["int8"]["top1"] >= rows["float32"]["top1"] - 0.05
    assert rows["int8"]["bytes"] < 0.5 * rows["float32"]["bytes"]  # the graph itself weighs as much as so small a model's weights
    assert rows["pruned 90%"]["zipped"] < rows["pruned 30%"]["zipped"] < rows["float32"]["zipped"]
    assert (learned / "compress" / "compress.png").stat().st_size > 5_000
    assert (learned / "compress" / "figures" / "compress.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in (learned / "compress").iterdir() if path.name.startswith(".")]
    names = {path.name for path in (learned / "compress").iterdir()}
    assert names == {"int8.onnx", "preprocessing.json", "results.json", "compress.png", "figures"}
    prepared = json.loads((learned / "compress" / "preprocessing.json").read_text())
    assert prepared["classes"] == [f"class{i}" for i in range(4)]
    assert prepared["input_size"] == [3, 32, 32]
    assert {"mean", "std", "crop_pct", "interpolation", "crop_mode"} < set(prepared)
    done = command("export", f"run={learned}", "format=onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads((learned / "export" / "onnx" / "preprocessing.json").read_text()) == prepared
    session = onnxruntime.InferenceSession(learned / "compress" / "int8.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [f"class{i}" for i in range(4)]
    (logits,) = session.run(None, {"images": np.zeros((3, 3, 32, 32), np.float32)})
    assert logits.shape == (3, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prune=[1.2]",), "prune=1.2 must be between 0 and 1"),
        (("calibration=0",), "calibration=0 must be at least 1"),
        (("split=tst",), "split=tst is unknown"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tiny_run: Path) -> None:
    done = command("compress", f"run={tiny_run}", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tiny_run / "compress").exists()

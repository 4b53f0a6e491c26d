"""The tasks beside classification, from the command line: trained, measured, told, resumed, handed on."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import QUIET, command, compose, results
from lightning.pytorch.callbacks import Callback
from quickly import quickly
from safetensors.torch import load_file
from tasks.tables import coloured

import visionlora as vl
from visionlora.training.run import run

MODEL = (
    "model=timm",
    "model.name=test_resnet",
    "model.pretrained=false",
    "data.num_workers=0",
    "data=table",
    "data.hflip=0",
    "trainer.precision=32-true",
)


@dataclass(frozen=True)
class Kind:
    """A task, how it is asked for, what leads and how good it must become."""

    name: str
    words: tuple[str, ...]
    lead: str
    bound: float
    higher: bool
    columns: tuple[str, ...]
    plots: tuple[str, ...]


KINDS = (
    Kind(
        "multilabel", ("task=multilabel", "data.label=labels"), "map", 0.9, True,
        ("labels", "probability of blue", "probability of green", "probability of red"), ("precision_recall",),
    ),
    Kind(
        "regression", ("task=regression", "data.label=[bright,warm]"), "r2", 0.5, True,
        ("bright", "warm"), ("predicted", "residuals", "most_wrong"),
    ),
)  # fmt: skip


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True)
class Trained:
    kind: Kind
    table: Path
    run: Path
    words: tuple[str, ...]
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=quickly(KINDS, 1), ids=lambda kind: kind.name)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind: Kind = request.param
    folder = tmp_path_factory.mktemp(kind.name)
    table = coloured(folder / "data", 80)
    words = (*MODEL, *QUIET, *kind.words, f"data.root={table}", "trainer.max_epochs=12", "optim.lr=0.02", "data.batch_size=8")
    done = command("train", *words, f"hydra.run.dir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return Trained(kind, table, folder / "run", words, done)


def test_it_learns_and_says_so(trained: Trained) -> None:
    found, kind = results(trained.run), trained.kind
    assert found["task"] == kind.name
    assert found["images/train"] + found["images/val"] + found["images/test"] == 80
    assert found[f"test/{kind.lead}"] > kind.bound
    assert found[f"test/{kind.lead}"] > found[f"test_before/{kind.lead}"] or found[f"test_before/{kind.lead}"] > kind.bound
    assert f"task={kind.name} wants all of an image" in trained.done.stdout


def test_evaluation_agrees_and_leaves_what_it_says(trained: Trained) -> None:
    done = command("evaluate", f"run={trained.run}")
    assert done.returncode == 0, done.stderr
    found = json.loads((trained.run / "evaluation_test.json").read_text())
    for key, value in results(trained.run).items():
        if key.startswith("test/"):
            assert found[key] == pytest.approx(value, abs=2e-3, rel=2e-3), key
    measure = {"multilabel": "map", "regression": "mae"}[trained.kind.name]
    assert found[f"test/{measure}_low"] <= found[f"test/{measure}"] <= found[f"test/{measure}_high"]
    folder = trained.run / "evaluation_test"
    for plot in trained.kind.plots:
        assert (folder / f"{plot}.png").is_file(), plot
    assert len(rows_of(folder / "predictions.csv")) == results(trained.run)["images/test"]


def test_predictions_are_those_of_the_evaluation(trained: Trained, tmp_path: Path) -> None:
    images = trained.table.parent / "images"
    done = command("predict", f"run={trained.run}", f"input={images}", f"output={tmp_path / 'p.csv'}")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "p.csv")
    assert tuple(rows[0]) == ("path", "error", *trained.kind.columns)
    truth = {row["image"]: row for row in rows_of(trained.table)}
    if trained.kind.name == "multilabel":
        right = [set(row["labels"].split("|")) == set(truth[f"images/{Path(row['path']).name}"]["labels"].split("|")) for row in rows]
        assert np.mean(right) > 0.7
    else:
        off = [abs(float(row["bright"]) - float(truth[f"images/{Path(row['path']).name}"]["bright"])) for row in rows]
        assert np.mean(off) < 400  # of 1,000 to 3,500, in the units of the table


def test_what_is_chosen_or_scaled_is_in_the_card_and_survives_a_reload(trained: Trained) -> None:
    predictor = vl.load(trained.run)
    section = json.loads((trained.run / "adapter/visionlora.json").read_text())["backbone"]["task"]
    assert section == predictor.task.section()
    if trained.kind.name == "multilabel":
        (threshold,) = section["thresholds"]
        assert 0.1 <= threshold <= 0.9
    else:
        rows = [row for row in rows_of(trained.table) if row["part"] == "train"]
        numbers = np.array([[float(row["bright"]), float(row["warm"])] for row in rows])
        np.testing.assert_allclose(section["center"], numbers.mean(0), rtol=1e-4)
        np.testing.assert_allclose(section["scale"], numbers.std(0), rtol=1e-4)


def test_an_export_gives_the_same(trained: Trained, tmp_path: Path) -> None:
    done = command("export", f"run={trained.run}", "format=onnx", f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "images of the run's data" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    known = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items() if key in ("classes", "task")}
    predictor = vl.load(trained.run)
    assert known["classes"] == predictor.classes
    assert known["task"] == predictor.task.section()
    image = np.random.default_rng(0).standard_normal((1, *session.get_inputs()[0].shape[1:])).astype(np.float32)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: image})
    with torch.inference_mode():
        expected = predictor.model(torch.from_numpy(image))
    np.testing.assert_allclose(outputs, expected.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.faults
def test_an_interrupted_run_goes_on_to_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise Stop

    words = [word for word in trained.words if not word.startswith("trainer.max_epochs")] + ["trainer.max_epochs=3"]
    run(compose(*words), tmp_path / "whole")
    with pytest.raises(Stop):
        run(compose(*words), tmp_path / "cut", [Interrupt()])
    done = command("train", *words, "ckpt_path=last", f"hydra.run.dir={tmp_path / 'cut'}")
    assert done.returncode == 0, done.stderr
    whole, cut = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert vl.load(tmp_path / "whole").task.section() == vl.load(tmp_path / "cut").task.section()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("task=multilabel", "data.label=labels", "task.loss=hinge"), "task.loss=hinge is unknown"),
        (("task=multilabel", "data.label=labels", "data.balance=sampler"), "data.balance=sampler is nothing that task=multilabel can do"),
        (("task=multilabel", "data.label=labels", "task.thresholds=[0.5,0.5]"), "task.thresholds has 2 values for 3 labels"),
        (("task=regression", "data.label=bright", "task.low=3", "task.high=2"), "task.low=3.0 must be below task.high=2.0"),
        (("task=regression", "data.label=bright", "data.balance=weights"), "data.balance=weights is nothing that task=regression can do"),
        (("task=regression", "data.label=brigt"), "has no such column"),
        (("task=regression", "data.label=bright", "data.per_class=3"), "data.per_class counts by class"),
        (("task=regression", "data=digits", "~data.root"), "task=regression learns numbers, and the data has classes"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    table = coloured(tmp_path / "data", 40)
    root = () if "data=digits" in words else (f"data.root={table}",)
    words = tuple(word for word in words if not word.startswith("~"))
    done = command("train", *(word for word in MODEL if not (root == () and word == "data=table")), *root, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("trained", KINDS, indirect=True, ids=lambda kind: kind.name)
def test_runs_whose_thresholds_differ_are_averaged(trained: Trained, tmp_path: Path) -> None:
    words = [word for word in trained.words if not word.startswith(("optim.lr", "trainer.max_epochs"))]
    other = tmp_path / "other"
    done = command("train", *words, "optim.lr=0.005", "trainer.max_epochs=3", f"hydra.run.dir={other}")
    assert done.returncode == 0, done.stderr
    sections = [vl.load(run).task.section() for run in (trained.run, other)]
    if trained.kind.name == "multilabel":
        assert sections[0] != sections[1]
    both, image = f"run=[{trained.run},{other}]", next((trained.table.parent / "images").iterdir())
    for done in (
        command("evaluate", both, "average=logits"),
        command("evaluate", both, "average=weights", f"output={tmp_path / 'soup'}"),
        command("predict", both, f"input={image}", f"output={tmp_path / 'p.csv'}"),
    ):
        assert done.returncode == 0, done.stderr
    if trained.kind.name == "multilabel":
        (mean,) = vl.load(tmp_path / "soup").task.section()["thresholds"]
        assert mean == pytest.approx(np.mean([section["thresholds"] for section in sections]))


@pytest.mark.slow
@pytest.mark.parametrize("trained", KINDS, indirect=True, ids=lambda kind: kind.name)
def test_targets_are_mixed(trained: Trained, tmp_path: Path) -> None:
    words = [word for word in trained.words if not word.startswith("trainer.max_epochs")]
    done = command("train", *words, "trainer.max_epochs=1", "data.mixup=0.3", "data.cutmix=0.3", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr

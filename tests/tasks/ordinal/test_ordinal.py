"""What is reckoned of ranks, against scikit-learn and plain formulas; the order of classes; the commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import QUIET, command, results
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error

import visionlora as vl
from visionlora import Images, UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.ordinal.outcome import OrdinalOutcome
from visionlora.tasks.ordinal.ranks import as_outputs, loss, probabilities, ranks, reaching, steps
from visionlora.tasks.ordinal.task import Ordinal

Folders = Callable[..., Path]
NAMES = ["none", "mild", "severe", "worst"]


def some(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and classes that have something to do with each other."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(4, (count,), generator=generator)
    return 3 * (steps(targets, 4) - 0.5) + 2 * torch.randn(count, 4, generator=generator), targets


def test_probabilities_fall_sum_to_one_and_come_back() -> None:
    outputs, _ = some()
    found = reaching(outputs)
    assert (found[:, 0] == 1).all()
    assert (found.diff(dim=1) <= 0).all()
    shares = probabilities(outputs)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))
    torch.testing.assert_close(probabilities(as_outputs(shares)), shares, atol=1e-4, rtol=0)
    best = [min(range(4), key=lambda k: sum(p * abs(k - j) for j, p in enumerate(row))) for row in shares.tolist()]
    assert ranks(outputs).tolist() == best  # the median has the smallest expected distance


def test_the_loss_is_that_of_three_yes_or_no_questions() -> None:
    outputs, targets = some()
    wanted = sum(torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, k], (targets >= k).float()) for k in range(1, 4))
    torch.testing.assert_close(loss(outputs, targets), torch.as_tensor(wanted))
    torch.testing.assert_close(loss(outputs, steps(targets, 4)), torch.as_tensor(wanted))  # as mixup gives them
    outputs.requires_grad_()
    loss(outputs, targets).backward()
    assert outputs.grad is not None
    assert (outputs.grad[:, 0] == 0).all()


def test_metrics_are_scikit_learns() -> None:
    outputs, targets = some()
    evaluation = Evaluation(Ordinal(NAMES), "test")
    for start in range(0, 60, 16):
        evaluation.update(outputs[start : start + 16], targets[start : start + 16])
    found, said = {key: float(value) for key, value in evaluation.compute().items()}, ranks(outputs)
    assert found["test/mae"] == pytest.approx(mean_absolute_error(targets, said))
    assert found["test/accuracy"] == pytest.approx(accuracy_score(targets, said))
    assert found["test/qwk"] == pytest.approx(cohen_kappa_score(targets, said, weights="quadratic"))
    evaluation.update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    assert float(evaluation.compute()["test/qwk"]) == 0  # of one class alone it is not defined


def test_an_outcome() -> None:
    outputs, targets = some()
    images = Images.of_arrays(np.zeros((60, 8, 8, 3), np.uint8), targets.tolist())
    outcome = OrdinalOutcome(Ordinal(NAMES), "test", outputs, targets, images)
    low, high = outcome.interval()
    assert low <= outcome.metrics()["test/mae"] <= high
    off = np.abs(outcome.predicted - targets.numpy())
    assert [off[i] for i in outcome.most_wrong()] == sorted(off, reverse=True)[: len(outcome.most_wrong())]
    first = outcome.rows()[0]
    assert first["error"] == NAMES.index(first["predicted"]) - NAMES.index(first["true"])
    assert sum(row["images"] for row in outcome.report().values()) == 60
    page = outcome.page()
    assert page is not None
    assert "Off by 1 rank" in page
    assert outcome.p_against(outcome) == 1.0
    outcome.tell()
    assert all(outcome.plots().values())


def data(root: Path, name: str = "imagefolder", **keys: Any) -> ImageData:
    return ImageData(DataConfig(name, str(root), val_fraction=0.0, test_fraction=0.0, **keys), task="ordinal")


def test_the_order(class_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = class_folders(train={"severe": 2, "mild": 2, "none": 2})
    assert data(root).classes == ["mild", "none", "severe"]
    assert "mild < none < severe" in capsys.readouterr().err
    (tmp_path / "order.txt").write_text("none\nmild\nsevere\n")
    assert data(root, classes=str(tmp_path / "order.txt")).classes == ["none", "mild", "severe"]
    assert "none < mild < severe" in capsys.readouterr().err
    many = class_folders(tmp_path / "many", train={"2": 2, "10": 2, "9": 2})
    with pytest.raises(UserError, match=r"in sorted order \(10, 2, 9\) they are not in that of the numbers"):
        data(many)
    rows = [f"{path.relative_to(many)},{path.parent.name}\n" for path in sorted(many.rglob("*.png"))]
    (many / "grades.csv").write_text("image,grade\n" + "".join(rows))
    found = data(many / "grades.csv", "table")
    assert found.classes == ["2", "9", "10"]
    train = found.parts["train"]
    assert [found.classes[label] for label in train.labels] == [name.split("/")[1] for name in train.names]


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images, the brighter the higher their grade."""
    folder, random = tmp_path_factory.mktemp("grades"), np.random.default_rng(0)
    with (folder / "grades.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "grade", "part"])
        for number in range(120):
            grade = number % 4
            level = 30 + 60 * grade + random.integers(-25, 25)
            Image.fromarray((level + random.integers(-15, 15, (24, 24, 3))).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", grade, ("train", "train", "train", "val", "test")[number // 4 % 5]])
    return folder / "grades.csv"


@pytest.fixture(scope="module")
def trained(grades: Path) -> Path:
    words = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data.num_workers=0", "data=table", "data.hflip=0")
    more = (f"data.root={grades}", "task=ordinal", "trainer.max_epochs=10", "optim.lr=0.02", "data.batch_size=8")
    done = command("train", *QUIET, *words, *more, f"hydra.run.dir={grades.parent / 'run'}")
    assert done.returncode == 0, done.stderr
    return grades.parent / "run"


def test_the_command_learns_and_evaluates(trained: Path) -> None:
    found = results(trained)
    assert found["task"] == "ordinal"
    assert found["test/mae"] < 0.5
    assert found["test/qwk"] > 0.7
    assert found["test_before/mae"] >= 0
    for words in ((), ("tta=flip",), ("compare=true",)):
        done = command("evaluate", f"run={trained}", *words)
        assert done.returncode == 0, done.stderr
    again = json.loads((trained / "evaluation_test.json").read_text())
    assert again["test/mae"] == pytest.approx(found["test/mae"], abs=1e-3)
    assert {"confusion.png", "predictions.csv"} <= {path.name for path in (trained / "evaluation_test").iterdir()}


def test_predictions_and_the_export_say_the_same(trained: Path, grades: Path, tmp_path: Path) -> None:
    done = command("predict", f"run={trained}", f"input={grades.parent}", f"output={tmp_path / 'p.csv'}", "topk=2")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open() as stream:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(stream) if not row["error"]}
    with grades.open() as stream:
        truth = {row["image"]: int(row["grade"]) for row in csv.DictReader(stream)}
    assert np.mean([abs(int(rows[name]["class1"]) - grade) for name, grade in truth.items()]) < 0.5
    done = command("export", f"run={trained}", "format=onnx", f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    image = np.random.default_rng(0).standard_normal((1, *session.get_inputs()[0].shape[1:])).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    said: dict[str, Any] = {"np": np, "logits": logits, "json": json}
    exec("\n".join(line for line in Ordinal.answer_code(False, "x") if not line.startswith("print")), said)
    predictor = vl.load(trained)
    with torch.inference_mode():
        assert said["rank"] == int(ranks(predictor.model(torch.from_numpy(image)))[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.balance=weights",), "data.balance=weights is nothing that task=ordinal can do"),
        (("model.head_init=pretrained",), "the outputs of task=ordinal are no classes of weights"),
        (("task.loss=corn",), "task.loss"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, grades: Path, tmp_path: Path) -> None:
    model = ("model=timm", "model.name=test_resnet", "model.pretrained=false")
    done = command("train", *model, "data=table", f"data.root={grades}", "task=ordinal", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr

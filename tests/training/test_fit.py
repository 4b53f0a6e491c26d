"""``vl.fit`` on data of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassRecall

import visionlora as vl


def tensors(count: int = 32) -> TensorDataset:
    """Dark and bright noise: learnable in a few steps."""
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return TensorDataset(0.3 * noise + 2.0 * labels[:, None, None, None] - 1, labels)


def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return vl.create_backbone("timm/test_resnet", num_classes=2, pretrained=False)


class Module(L.LightningDataModule):
    """Has its test data from Lightning's ``setup`` on, and not before."""

    def setup(self, stage: str) -> None:
        if stage == "test":
            self.tested = tensors()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(tensors(), 8)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(tensors(), 8)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.tested, 8)


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "dataset": lambda: {"data": tensors(), "val": tensors(), "test": tensors(), "batch_size": 8},
    "loader": lambda: {"data": DataLoader(tensors(), 8), "val": DataLoader(tensors(), 8), "test": DataLoader(tensors(), 8)},
    "module": lambda: {"data": Module()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_from_any_kind_of_data(kind: str) -> None:
    model = backbone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fitted = vl.fit(
        model, **KINDS[kind](), epochs=8, optim=vl.OptimConfig(lr=0.02), metrics={"recall": MulticlassRecall(2)}, enable_progress_bar=False
    )
    assert fitted.module.model is model
    assert fitted.metrics["test/top1"] == fitted.metrics["val/top1"] > 0.9
    assert {"train/loss", "val/loss", "val/recall", "test/recall"} <= set(fitted.metrics)
    assert not model.training
    head = vl.find_head(model)
    frozen = {name: value for name, value in before.items() if not name.startswith(head)}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


def test_what_is_saved_gives_the_same_logits(tmp_path: Path) -> None:
    model = backbone()
    vl.fit(model, tensors(), epochs=1, folder=tmp_path / "mine", enable_progress_bar=False)
    images = tensors()[0][0][None]
    other = vl.load_adapter(backbone(), tmp_path / "mine/adapter").eval()
    with torch.no_grad():
        assert torch.allclose(other(images), model(images), atol=1e-5)


def test_the_process_is_as_before_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = backbone()
    state = torch.get_rng_state()
    vl.fit(model, tensors(), epochs=1, enable_progress_bar=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(tmp_path.iterdir())


def test_the_same_seed_is_the_same_training() -> None:
    first, second = (vl.fit(backbone(), tensors(), epochs=1, seed=3, enable_progress_bar=False).metrics for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": Module(), "val": tensors()}, "a LightningDataModule has its own validation"),
        ({"data": TensorDataset(torch.randn(4, 3, 64, 64), torch.randn(4, 2))}, "labels"),
        ({"data": TensorDataset(torch.randn(4, 3, 64, 64), torch.full((4,), 7))}, "label"),
    ],
)
def test_mistakes(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(vl.UserError, match=said):
        vl.fit(backbone(), **arguments, epochs=1, enable_progress_bar=False)


def test_one_output_is_no_classifier() -> None:
    model = vl.create_backbone("timm/test_resnet", num_classes=1, pretrained=False)
    with pytest.raises(vl.UserError, match="has one output, and a classifier needs two"):
        vl.fit(model, tensors(), epochs=1, enable_progress_bar=False)


@pytest.mark.parametrize("below", ["file", "file/deep"])
def test_a_folder_that_cannot_be_made_is_told_before_the_training(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    model = backbone()
    with pytest.raises(vl.UserError, match="cannot be made"):
        vl.fit(model, tensors(), epochs=1, folder=tmp_path / below)
    assert not vl.adapter_names(model)
    assert (tmp_path / "file").read_text() == "mine"


def test_adapters_that_are_there_are_trained_and_no_others_asked_for() -> None:
    model = backbone()
    vl.inject(model, vl.LoraConfig(r=2))
    with pytest.raises(vl.UserError, match="has adapters already"):
        vl.fit(model, tensors(), lora=vl.LoraConfig(r=4))
    assert vl.fit(model, tensors(), epochs=1, enable_progress_bar=False).metrics["train/loss"] > 0


def test_images_without_a_test_part_are_trained_on_and_saved(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders(train={"cat": 12, "dog": 12})
    data = vl.ImageData(vl.DataConfig(name="imagefolder", root=str(root), test_fraction=0, image_size=64, num_workers=0))
    fitted = vl.fit(backbone(), data, epochs=1, folder=tmp_path / "out", enable_progress_bar=False)
    assert "val/top1" in fitted.metrics
    assert "test/top1" not in fitted.metrics
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()


def test_masks_of_objects_are_measured() -> None:
    data = vl.ImageData(vl.DataConfig("digits", batch_size=2, num_workers=0, crop_scale=None), task="detect")
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", 10, False, decoder="mask_rcnn", image_size=64)
    data.parts = {part: pictures.subset(range(2)) for part, pictures in data.parts.items()}
    fitted = vl.fit(model, data, task=data.task, epochs=1, enable_progress_bar=False)
    assert {"val/map", "val/mask_map", "test/mask_map50"} <= set(fitted.metrics)

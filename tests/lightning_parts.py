"""A tiny model, data and a Trainer, as a user of Lightning would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import visionlora as vl

X = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


def loader(labels: Any = Y, images: Tensor = X, batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def model(name: str = "timm/test_resnet", seed: int = 0, **config: Any) -> nn.Module:
    torch.manual_seed(seed)
    backbone = vl.create_backbone(name, 4, pretrained=False, image_size=64)
    settings: dict[str, Any] = {"r": 2, "targets": "all"}
    vl.inject(backbone, vl.LoraConfig(**settings | config))
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

"""Frozen statistics stay, whoever calls train()."""

from __future__ import annotations

import copy
import pickle

import timm
import torch
from torch import nn

from visionlora.backbone.freeze import freeze_statistics, unfreeze_statistics


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.named_buffers()}


def test_statistics_do_not_move() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)  # BatchNormAct2d
    keys, before = list(model.state_dict()), buffers(model)
    assert freeze_statistics(model) == freeze_statistics(model) > 10
    for trained in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        trained.train()
        for module in trained.modules():
            module.train()
        trained(torch.randn(2, 3, 64, 64))
        assert all(torch.equal(value, before[key]) for key, value in trained.named_buffers())
    assert list(model.state_dict()) == keys
    assert all(isinstance(m, nn.BatchNorm2d) for n, m in model.named_modules() if n.endswith("bn1"))
    assert model.conv_stem.training
    unfreeze_statistics(model)
    model(torch.randn(2, 3, 64, 64))
    assert not all(torch.equal(value, before[key]) for key, value in model.named_buffers())

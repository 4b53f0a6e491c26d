"""How far and in how many directions weights moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_parts import tensor
from torch import nn

import visionlora as vl
from visionlora.lora.changes import changes, effective_rank


@pytest.mark.parametrize("config", [{}, {"method": "dora"}, {"init": "pissa"}, {"method": "adalora"}], ids=str)
def test_changes_are_those_of_the_merged_weights(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 4)).double()
    before = {name: tensor(layer, "weight").detach().clone() for name, layer in model.named_children() if hasattr(layer, "weight")}
    vl.inject(model, vl.LoraConfig(r=2, targets=["0", "3"], **config), example=torch.randn(2, 3, 3, 3).double())
    assert [c.relative for c in changes(model)] == pytest.approx([0, 0], abs=1e-7)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_E" in name:
            nn.init.normal_(parameter)
    found = changes(model)
    vl.merge(model)
    assert [c.name for c in found] == ["0", "3"]
    for c in found:
        delta = (tensor(model, f"{c.name}.weight") - before[c.name]).detach()
        assert c.relative == pytest.approx(float(delta.norm() / before[c.name].norm()), rel=1e-5)
        assert c.effective_rank == pytest.approx(effective_rank(delta.flatten(1)), rel=1e-3)
        if not config:
            assert c.effective_rank <= c.rank == 2
    with pytest.raises(vl.UserError, match="no adapters, or they are merged"):
        changes(nn.Sequential(nn.Linear(2, 2)))


def test_effective_rank() -> None:
    assert effective_rank(torch.zeros(3, 4)) == 0
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(3, 3)) == pytest.approx(1, abs=1e-4)

"""PEFT is the outside reference: the same A and B give the same numbers, in float64; its files are ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import unsealed
from model_parts import adapter_of, tensor
from torch import nn

import visionlora as vl
from visionlora.lora import LoraConfig, inject, merge
from visionlora.lora.layer import lora_layers

peft = pytest.importorskip("peft")

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(9, 8), (3, 9)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 9, 9)),
    "conv 1×1": (lambda: nn.Conv2d(8, 6, 1), (2, 8, 5, 5)),
}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_same_output_delta_gradient_and_merged_weight(case: str, rslora: bool) -> None:
    torch.manual_seed(0)
    build, shape = CASES[case]
    ours = nn.Sequential(build()).double()
    theirs = nn.Sequential(build()).double()
    theirs.load_state_dict(ours.state_dict())
    inject(ours, LoraConfig(r=3, alpha=5, targets="all", use_rslora=rslora))
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0"], use_rslora=rslora)).double()
    layer = adapted.base_model.model[0]
    mine = adapter_of(ours)
    nn.init.normal_(mine.lora_B)
    layer.lora_A["default"].weight.data = mine.lora_A.detach().reshape(layer.lora_A["default"].weight.shape).clone()
    layer.lora_B["default"].weight.data = mine.lora_B.detach().reshape(layer.lora_B["default"].weight.shape).clone()

    x = torch.randn(shape, dtype=torch.float64)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    out, reference = ours(xs[0]), adapted(xs[1])
    assert torch.allclose(out, reference, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(out)
    grads = torch.autograd.grad((out * weights).sum(), [xs[0], mine.lora_A, mine.lora_B])
    wanted = torch.autograd.grad((reference * weights).sum(), [xs[1], layer.lora_A["default"].weight, layer.lora_B["default"].weight])
    for a, b in zip(grads, wanted, strict=True):
        assert torch.allclose(a, b.reshape(a.shape), rtol=1e-10, atol=1e-12)
    delta = layer.get_delta_weight("default")
    assert torch.allclose(mine.delta().view_as(delta), delta, rtol=1e-10, atol=1e-12)
    merge(ours)
    assert torch.allclose(tensor(ours, "0.weight"), adapted.merge_and_unload()[0].weight, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_peft_loads_what_we_save(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vl.create_backbone(f"timm/{name}", 3, pretrained=False)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    targets = "conv1" if name == "test_resnet" else {"*.fc1": 2, "*.fc2": {"r": 3, "alpha": 1}}
    config = LoraConfig(r=4, targets=targets) if isinstance(targets, dict) else LoraConfig(r=4)
    vl.inject(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    vl.save_adapter(model, tmp_path)
    plain = timm.create_model(name, num_classes=3)
    plain.load_state_dict(base)
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(loaded(x), model.eval()(x), rtol=1e-4, atol=1e-4)


MADE: dict[str, dict[str, Any]] = {
    "patterns": {"rank_pattern": {"qkv": 2}, "alpha_pattern": {"fc1": 3}},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "biases": {"bias": "all"},
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_we_load_what_peft_saves(name: str, made: str, tmp_path: Path) -> None:
    if name == "test_resnet" and made == "patterns":
        made_by: dict[str, Any] = {"rank_pattern": {"conv2": 2}}
        targets = ["conv2", "conv3"]
    else:
        made_by, targets = MADE[made], ["qkv", "fc1"] if name == "test_vit" else ["conv2"]
    if name == "test_resnet" and made in ("pissa", "olora"):
        pytest.skip("PEFT has these for linear layers alone")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    fresh = timm.create_model(name, num_classes=3)
    fresh.load_state_dict(model.state_dict())
    head = "head" if name == "test_vit" else "fc"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=[head], **made_by)
    theirs = peft.get_peft_model(model, config).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    vl.load_adapter(fresh, tmp_path)
    size = fresh.pretrained_cfg["input_size"][-1]
    x = torch.randn(2, 3, size, size)
    assert torch.allclose(fresh.eval()(x), theirs(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"peft_type": "LOHA"}, "is a LOHA adapter of PEFT; only LORA"), ({"init_lora_weights": "corda"}, "its base was edited by")],
)
def test_what_peft_saves_and_we_cannot_read(config: dict[str, str], message: str, tmp_path: Path) -> None:
    model = vl.create_backbone("timm/test_vit", 3, pretrained=False)
    fresh = timm.create_model("test_vit", num_classes=3)
    fresh.load_state_dict(model.state_dict())
    vl.inject(model, LoraConfig(r=2))
    vl.save_adapter(model, tmp_path)
    path = unsealed(tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(vl.UserError, match=message):
        vl.load_adapter(fresh, tmp_path)
    assert not list(lora_layers(fresh))

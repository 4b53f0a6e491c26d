"""A base in 8 bits: what is computed, held, merged, saved and told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, compose, results
from model_parts import stored, tensor
from torch import Tensor, nn

import visionlora as vl
from visionlora.lora.frozen import dense, is_quantized
from visionlora.speed.quantize import quantize, quantized
from visionlora.training.run import run

VIT = ("model.name=test_vit",)


def made(**config: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """A quantised model with adapters, the same with its dense weights, an input."""
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_vit", 4, pretrained=False)
    x = vl.example_batch(model)
    assert quantize(model, ["head"]) == 24
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if is_quantized(getattr(module, "weight", torch.zeros(0))):
            module.weight = nn.Parameter(dense(tensor(module, "weight")).detach().clone())
    for each in (model, plain):
        torch.manual_seed(1)
        vl.inject(each, vl.LoraConfig(r=2, **config), x)
        for key, parameter in each.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
    return model, plain, x


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(2)  # of the dropout
    out = model(x)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    return {"": out.detach()} | dict(zip(trained, torch.autograd.grad(out.square().sum(), list(trained.values())), strict=True))


@pytest.mark.parametrize("config", [{}, {"method": "dora"}, {"init": "pissa"}, {"dropout": 0.2}], ids=str)
def test_it_computes_what_the_dense_weights_do(config: dict[str, Any]) -> None:
    model, plain, x = made(**config)
    assert quantized(model)
    assert not quantized(plain)
    wanted = gradients(plain, x)
    for folded in (False, True):
        if folded:
            vl.fold(model, x)
        for key, value in gradients(model, x).items():
            assert torch.allclose(value, wanted[key], rtol=1e-3, atol=1e-4 * float(wanted[key].abs().max())), key


def test_merging_makes_dense_weights_and_unmerging_takes_them_back() -> None:
    model, plain, x = made()
    wanted = model(x).detach()
    before = {name: p for name, p in model.named_parameters() if is_quantized(p)}
    vl.merge(model)
    assert not quantized(model)
    assert torch.allclose(model(x), wanted, rtol=1e-3, atol=1e-4)
    vl.merge(plain)
    assert torch.allclose(model(x), plain(x), rtol=1e-3, atol=1e-4)
    vl.unmerge(model)
    assert {name: p for name, p in model.named_parameters() if is_quantized(p)} == before
    assert torch.allclose(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_quarter_of_the_memory() -> None:
    model, plain, _ = made()
    name = "blocks.0.mlp.fc1"
    held: Any = stored(model.get_submodule(name))
    assert is_quantized(held)
    size = held.qdata.nbytes + held.scale.nbytes
    assert size < 0.3 * stored(plain.get_submodule(name)).nbytes


def test_from_the_command_and_back(tmp_path: Path) -> None:
    run(compose(*TINY, *VIT, *QUIET, "model.quantize=int8", "trainer.max_epochs=1", "trainer.precision=32-true", "logger={}"), tmp_path)
    predictor = vl.load(tmp_path)
    assert quantized(predictor.model)
    assert torch.isfinite(predictor.logits(torch.zeros(2, 3, 160, 160, dtype=torch.uint8))).all()
    assert results(tmp_path)["params/trainable"] > 0


def test_what_cannot_be_quantised_is_told(tmp_path: Path) -> None:
    with pytest.raises(vl.UserError, match="no linear layer"):
        quantize(vl.create_backbone("timm/test_resnet", 4, pretrained=False), ["fc"])
    model, _, x = made()
    vl.remove(model)
    with pytest.raises(vl.UserError, match="told apart"):
        vl.inject(model, vl.LoraConfig(r=2, targets=["q"]), x)
    with pytest.raises(vl.UserError, match="lora=full"):
        run(compose(*TINY, *VIT, *QUIET, "model.quantize=int8", "lora=full"), tmp_path)

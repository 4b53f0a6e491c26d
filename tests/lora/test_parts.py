"""q, k and v inside a fused projection."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from model_parts import part, stored, tensor
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

import visionlora as vl
from visionlora import UserError
from visionlora.lora import LoraConfig, inject, merge, unmerge


def attention_model(kind: str) -> tuple[nn.Module, Tensor, str]:
    """``(model in float64, input, name of one fused layer)``."""
    torch.manual_seed(0)
    if kind == "multihead":
        model: nn.Module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        return model.double().eval(), torch.randn(2, 5, 16).double(), "self_attn"
    built: dict[str, Any] = {
        "vit": lambda: timm.create_model("test_vit", num_classes=3),
        "beit": lambda: Beit(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3),
        "swin": lambda: SwinTransformer(32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=3),
    }
    model = built[kind]()
    nn.init.normal_(tensor(model, "head.fc.weight" if kind == "swin" else "head.weight"), std=0.5)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)  # BEiT's q_bias among them
    size = 160 if kind == "vit" else 32
    name = "layers.1.blocks.0.attn.qkv" if kind == "swin" else "blocks.0.attn.qkv"
    return model.double().eval(), torch.randn(2, 3, size, size).double(), name


@pytest.mark.parametrize("kind", ["vit", "beit", "swin", "multihead"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_only_the_named_rows_are_adapted(kind: str, method: str) -> None:
    model, x, name = attention_model(kind)
    before = model(x)
    report = inject(model, LoraConfig(r=2, targets=["q", "v"], method=method), example=x)
    assert {layer.name.rpartition(".")[2] for layer in report.layers} == {"q", "v"}
    assert torch.allclose(model(x), before, rtol=1e-12, atol=1e-12)
    layer = model.get_submodule(name)
    parameter = "in_proj_weight" if kind == "multihead" else "weight"
    raw = stored(layer, parameter).detach().clone()
    third = len(raw) // 3
    raw[third : 2 * third : 7] = -0.0  # a sum with zero would lose the sign
    stored(layer, parameter).data.copy_(raw)
    for p in model.parameters():
        if p.requires_grad:
            p.data += torch.randn_like(p)
    adapted = model(x)
    gradients = torch.autograd.grad(adapted.square().sum(), [p for p in model.parameters() if p.requires_grad])
    assert all(g.any() for g in gradients)
    merge(model)
    merged = stored(layer, parameter)
    assert torch.allclose(model(x), adapted, rtol=1e-9, atol=1e-9)
    assert torch.equal(merged[third : 2 * third].view(torch.int64), raw[third : 2 * third].view(torch.int64))
    assert not torch.isclose(merged[:third], raw[:third]).any(dim=1).all()
    assert not torch.isclose(merged[2 * third :], raw[2 * third :]).any(dim=1).all()
    unmerge(model)
    assert torch.equal(stored(layer, parameter), raw)


NAMED: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"targets": "q"}, {"q": 3}),
    ({"targets": ["qkv"]}, {"qkv": 3}),
    ({"targets": ["qkv"], "exclude": ["k"]}, {"q": 3, "v": 3}),
    ({"targets": {"qkv": 2, "v": 5}}, {"q": 2, "k": 2, "v": 5}),
    ({"targets": {"v": 5, "qkv": 2}}, {"qkv": 2}),
    ({"targets": "blocks.*.attn.qkv.k"}, {"k": 3}),
    ({"targets": ["attn"], "exclude": ["proj"]}, {"qkv": 3}),
    ({"targets": "re:blocks\\.\\d+\\.attn\\.qkv\\.[qk]"}, {"q": 3, "k": 3}),
]


@pytest.mark.parametrize(("config", "ranks"), NAMED)
def test_which_parts_a_pattern_means(config: dict[str, Any], ranks: dict[str, int]) -> None:
    model = timm.create_model("test_vit", num_classes=3)
    report = inject(model, LoraConfig(r=3, **config), head=["head"])
    assert {layer.name.rpartition(".")[2]: layer.r for layer in report.layers} == ranks


def test_rows_in_another_order_are_refused() -> None:
    """CoAtNet keeps them head by head; a wrong slice would train values under the name of queries."""
    model = timm.create_model("coatnet_nano_rw_224", num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="are not those of q, k, v one after the other"):
        vl.inject(model, LoraConfig(targets="q"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_keys_and_values_beside_queries() -> None:
    torch.manual_seed(0)
    model = timm.create_model("pvt_v2_b0", num_classes=3)
    report = vl.inject(model, LoraConfig(targets=["q", "v"]))
    assert {layer.name.rpartition(".")[2] for layer in report.layers} == {"q", "v"}
    assert any(layer.name.endswith("attn.kv.v") for layer in report.layers)
    assert any(layer.name.endswith("attn.q") for layer in report.layers)


def test_tied_projections_are_left_as_they_were() -> None:
    model, x, name = attention_model("vit")
    part(model, "blocks.1.attn.qkv", nn.Linear).weight = part(model, "blocks.0.attn.qkv", nn.Linear).weight
    before = tensor(model, f"{name}.weight").detach().clone()
    inject(model, LoraConfig(r=2, targets=["q"]), example=x)
    assert torch.equal(stored(model.get_submodule(name)), before)


def test_a_small_layer_scale_hides_nothing() -> None:
    """The check looks at the attention, not at the logits: this model keeps its rows head by head behind a scale of 1e-5."""
    model = timm.create_model("efficientformer_l1", num_classes=3)
    with pytest.raises(UserError, match="are not those of q, k, v one after the other"):
        vl.inject(model, LoraConfig(targets="q"))

"""Attention of our own against torch's, and who takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import visionlora as vl
from visionlora.speed import attention
from visionlora.speed.attention import UnfusedAttention, _Attention


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (5, 4)])
def test_gradients_in_float64(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *x: _Attention.apply(*x, 0.3), (q, k, v))
    assert torch.allclose(_Attention.apply(q, k, v, 0.3), F.scaled_dot_product_attention(q, k, v, scale=0.3))


class Attends(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.qkv, self.kwargs = nn.Linear(8, 24), kwargs

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, **self.kwargs)


@pytest.mark.parametrize(
    ("kwargs", "dtype", "taken"),
    [
        ({}, torch.bfloat16, True),
        ({"scale": 0.5}, torch.bfloat16, True),
        ({"is_causal": True}, torch.bfloat16, False),
        ({"dropout_p": 0.1}, torch.bfloat16, False),
        ({"attn_mask": torch.zeros(6, 6)}, torch.bfloat16, False),
        ({}, torch.float32, False),
    ],
    ids=str,
)
def test_it_is_taken_where_it_pays_and_is_the_same(kwargs: dict[str, Any], dtype: torch.dtype, taken: bool) -> None:
    model, x = Attends(**kwargs), torch.randn(2, 6, 8)

    def run() -> tuple[Tensor, bool]:
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(x)
        return out.detach().float(), "_Attention" in str(out.grad_fn)

    wanted, before = run()
    attention.use_unfused(model)
    got, after = run()
    assert not before
    assert after is taken
    assert torch.allclose(got, wanted, rtol=0.02, atol=0.02)
    with torch.no_grad():
        assert torch.isfinite(model(x)).all()
    attention.use_fused(model)
    assert type(model) is Attends


def test_fold_finds_who_attends() -> None:
    model = vl.create_backbone("timm/test_vit", 4, pretrained=False)
    x = vl.example_batch(model)
    vl.inject(model, vl.LoraConfig(r=2), x)
    vl.fold(model, x)
    assert sum(isinstance(module, UnfusedAttention) for module in model.modules()) == 6
    vl.unfold(model)
    assert not any(isinstance(module, UnfusedAttention) for module in model.modules())

"""The cost rule: where the choice turns, and what each choice must respect."""

from __future__ import annotations

import pytest
import torch
from model_parts import part
from torch import nn

from visionlora.lora import LoraConfig, inject
from visionlora.lora.kernel_layers import KernelLayer
from visionlora.lora.kernels import cost
from visionlora.lora.kernels.geometry import Layer
from visionlora.lora.kernels.ways import BESIDE, BY_FACTORS, FORMED, WHOLE


def layer_of(module: nn.Module) -> Layer:
    model = nn.Sequential(module)
    inject(model, LoraConfig(r=1, targets="all"))
    layer = part(model, "0", KernelLayer).layer()
    assert layer is not None
    return layer


def test_many_rows_pay_for_forming_and_few_do_not() -> None:
    layer = layer_of(nn.Linear(256, 256))
    turn = cost.FORMING_BYTES * 256 * 256 // (cost.BESIDE_BYTES * 512)
    assert cost.plan(layer, 8, turn).forward is BESIDE
    assert cost.plan(layer, 8, turn + 1).forward is FORMED


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weight_of_few_bits_is_never_formed(dtype: torch.dtype) -> None:
    layer = layer_of(nn.Linear(64, 64).to(dtype))
    assert cost.plan(layer, 8, 10**6).forward is BESIDE


def test_narrow_layers_take_the_whole_gradient() -> None:
    narrow, wide = layer_of(nn.Linear(cost.NARROW, 512)), layer_of(nn.Linear(cost.NARROW + 1, 512))
    assert cost.plan(narrow, 1, 100).backward is WHOLE
    assert cost.plan(wide, 1, 100).backward is BY_FACTORS
    assert cost.plan(wide, cost.NARROW // cost.NARROW_PER_RANK + 1, 100).backward is WHOLE


def test_grouped_convs_have_one_way() -> None:
    assert cost.plan(layer_of(nn.Conv2d(64, 64, 3, groups=4)), 1, 1) == (FORMED, WHOLE)

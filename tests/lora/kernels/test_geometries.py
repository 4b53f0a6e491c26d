"""Every way the kernels can go × every geometry, in float64, against autograd through the effective weight."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_parts import gradient, part
from torch import Tensor, nn

from visionlora.lora import LoraConfig, inject, remove
from visionlora.lora.kernel_layers import KernelLayer
from visionlora.lora.kernels import cost
from visionlora.lora.kernels.ways import BESIDE, BY_FACTORS, FORMED, WHOLE
from visionlora.lora.layer import LoraLayer, lora_layers
from visionlora.speed.folding import fold

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(96, 60), (40, 96)),
    "tokens": (lambda: nn.Linear(60, 96, bias=False), (3, 17, 60)),
    "many rows": (lambda: nn.Linear(10, 8), (8, 1024, 10)),
    "conv": (lambda: nn.Conv2d(40, 50, 3, padding=1), (2, 40, 9, 7)),
    "conv without padding": (lambda: nn.Conv2d(40, 50, 3, bias=False), (2, 40, 9, 7)),
    "conv with a wide border": (lambda: nn.Conv2d(40, 20, (3, 5), padding=(3, 1)), (2, 40, 9, 7)),
    "conv, stride": (lambda: nn.Conv2d(8, 50, 3, stride=2, padding=1), (2, 8, 9, 9)),
    "conv, dilation": (lambda: nn.Conv2d(40, 8, 3, dilation=2), (2, 40, 9, 9)),
    "pointwise": (lambda: nn.Conv2d(60, 50, 1), (2, 60, 6, 5)),
    "pointwise, stride": (lambda: nn.Conv2d(60, 50, 1, stride=2), (2, 60, 6, 6)),
    "pointwise, wide stride": (lambda: nn.Conv2d(3, 16, 1, stride=(3, 2)), (2, 3, 7, 8)),
    "grouped pointwise, stride": (lambda: nn.Conv2d(12, 24, 1, stride=2, groups=4), (2, 12, 6, 6)),
    "grouped": (lambda: nn.Conv2d(12, 24, 3, groups=4), (2, 12, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(24, 24, 3, groups=24, padding=1), (2, 24, 6, 6)),
    "stem": (lambda: nn.Conv2d(3, 16, 7, stride=2, padding=3), (2, 3, 20, 20)),
}
WAYS = {
    "formed, whole": cost.Plan(FORMED, WHOLE),
    "formed, by factors": cost.Plan(FORMED, BY_FACTORS),
    "beside, whole": cost.Plan(BESIDE, WHOLE),
    "beside, by factors": cost.Plan(BESIDE, BY_FACTORS),
}


def made(name: str, layout: torch.memory_format, **config: Any) -> tuple[nn.Module, Tensor]:
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = nn.Sequential(build()).double()
    inject(model, LoraConfig(r=3, targets="all", **config))
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.3)
    x = torch.randn(shape, dtype=torch.float64)
    if x.ndim == 4:
        x, model = x.to(memory_format=layout), model.to(memory_format=layout)
    return model, x.requires_grad_()


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    out = model(x)
    weights = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out.dtype)
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *wanted])]


def reference(model: nn.Module) -> nn.Module:
    """The same layers with the property in place of the kernels."""
    plain = copy.deepcopy(model)
    for _, layer in lora_layers(plain):
        layer.__class__ = type("Reference", (LoraLayer, layer.base_class), {"weight": LoraLayer.attribute("weight")})
    return plain


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_each_way_is_exact(name: str, way: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(name, layout)
    layer = part(model, "0", KernelLayer).layer()
    assert layer is not None
    if layer.geometry.one_way and way != "formed, whole":
        pytest.skip("grouped convs have one way")
    monkeypatch.setattr(cost, "plan", lambda *_: WAYS[way])
    for got, wanted in zip(gradients(model, x), gradients(reference(model), x), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("config", [{"dropout": 0.4}, {"method": "dora"}, {"freeze_a": True}, {"init": "pissa"}], ids=str)
@pytest.mark.parametrize("name", ["linear", "conv", "pointwise", "depthwise", "stem"])
def test_each_method_is_exact(name: str, config: dict[str, Any]) -> None:
    model, x = made(name, torch.channels_last, **config)
    model.train()
    found = []
    for each in (model, reference(model)):
        torch.manual_seed(1)  # of the dropout
        found.append(gradients(each, x))
    for got, wanted in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_the_frozen_weight_costs_nothing_between_forward_and_backward(name: str) -> None:
    """What is held is the input and tensors that are small beside it or beside the weight; never an output, never a second input."""
    model, x = made(name, torch.channels_last)
    held: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), x)}

    def note(t: Tensor) -> Tensor:
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = model(x)
    layer = part(model, "0", KernelLayer).layer()
    assert layer is not None
    extra = sum(size for pointer, size in held.items() if pointer not in own)
    low_rank = 8 * (out.numel() // len(layer.raw)) * 3
    factors = sum(8 * p.numel() for key, p in model.named_parameters() if "lora_" in key)
    assert extra <= low_rank + factors + layer.raw.nbytes


def test_frozen_a_does_not_hold_the_input() -> None:
    model, x = made("conv", torch.channels_last, freeze_a=True)
    held = set()

    def note(t: Tensor) -> Tensor:
        held.add(t.data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(x)
    assert x.data_ptr() not in held


@pytest.mark.parametrize("name", ["conv", "pointwise", "linear"])
def test_of_a_batch_nothing_wider_or_narrower_is_held_beside_it(name: str) -> None:
    model, x = made(name, torch.channels_last)
    model, batch = model.float(), x.detach().float()
    held = []

    def note(t: Tensor) -> Tensor:
        held.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        out = model(batch)
    assert not [t for t in held if t.shape == batch.shape and t.dtype == torch.bfloat16]
    out.float().sum().backward()
    assert all(p.grad is not None for key, p in model.named_parameters() if "lora_" in key)


def test_bf16_rounds_the_sum_once() -> None:
    """An update far below bf16's resolution of the weight still moves some entries of their sum, as in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    inject(model, LoraConfig(r=2, targets="all"))
    layer = next(iter(lora_layers(model)))[1]
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.01)
    effective = layer.adapter_sets["weight"].effective(layer.raw("weight")).detach()
    assert isinstance(layer, KernelLayer)
    computed = layer.layer()
    assert computed is not None
    assert cost.plan(computed, 2, 4096).forward is FORMED
    with torch.autocast("cpu", torch.bfloat16):
        columns = model(torch.eye(64).repeat(64, 1))[:64].t()  # (the identity's rows give the weight's columns)
    assert columns.dtype == torch.bfloat16
    assert torch.equal(columns, effective.to(torch.bfloat16))


def test_double_backward_and_transforms_take_plain_operations() -> None:
    model, x = made("conv", torch.channels_last)
    names = [key for key, p in model.named_parameters() if p.requires_grad]

    def loss(values: dict[str, Tensor]) -> Tensor:
        total: Tensor = torch.func.functional_call(model, values, (x,)).square().sum()
        return total

    values: dict[str, Tensor] = {key: dict(model.named_parameters())[key] for key in names}
    by_transform = torch.func.grad(loss)(values)
    model(x).square().sum().backward()
    for key in names:
        assert torch.allclose(by_transform[key], gradient(values[key]), rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "conv", "grouped"])
def test_a_weight_that_is_unfrozen_after_all_gets_its_gradient(name: str) -> None:
    model, x = made(name, torch.channels_last)
    model.requires_grad_(True)
    for got, wanted in zip(gradients(model, x), gradients(reference(model), x), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["grouped", "depthwise"])
def test_grouped_convs_in_bf16_go_back_in_float32(name: str) -> None:
    """Strided too; the gradient is that of float32 up to bf16's rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=4 if name == "grouped" else 16))
    inject(model, LoraConfig(r=2, targets="all"))
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    wanted = gradients(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(model, x)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == (torch.bfloat16 if a is got[0] else b.dtype)
        assert torch.allclose(a.float(), b, rtol=0.05, atol=0.02 * float(b.abs().max()))


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("name", ["linear", "tokens", "conv", "pointwise", "depthwise"])
def test_what_comes_out_may_be_changed_in_place(name: str, adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever version of torch: in some of them a linear layer's output is a view."""
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *args: linear(*args).view(-1).view(*args[0].shape[:-1], -1))
    model, x = made(name, torch.channels_last)
    if not adapted:
        remove(model)
        model.requires_grad_(False)
        fold(model, x.detach())
    out = model(x)
    wanted = torch.relu(out.detach())
    assert torch.equal(nn.functional.relu_(out), wanted)
    out.sum().backward()
    assert x.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adapted", "trained"])
def test_a_strided_pointwise_stem_does_not_break_the_heap(method: str) -> None:
    """Its weight's gradient in float32, of three channels and large images, kills torch's own conv on many CPUs."""
    code = f"""if True:
        import torch, visionlora as vl
        from torch import nn
        model = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2))
        x = torch.randn(4, 3, 256, 256).to(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
        if {method == "adapted"}:
            vl.inject(model, vl.LoraConfig(r=2, targets="all"), x)
        vl.fold(model, x)
        for _ in range(8):
            model(x).sum().backward()
        x = x[:, :, ::2, ::2].double()
        if {method == "trained"}:
            plain = nn.Sequential(nn.Conv2d(3, 48, 1, bias=False), *list(model)[1:]).double()
            plain[0].weight.data.copy_(model[0].weight)
            got = model[0].weight.grad / 8
            plain.zero_grad()
            plain(x).sum().backward()
            assert torch.allclose(got.double(), plain[0].weight.grad, rtol=1e-3, atol=1e-5)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

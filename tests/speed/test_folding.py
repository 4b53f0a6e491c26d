"""Kinds of model × what folding must leave as it was, in float64."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_parts import adapter_of, gradient, tensor
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d
from torch import Tensor, nn

import visionlora as vl
from visionlora.backbone.freeze import FrozenStatistics
from visionlora.lora.kernel_layers import COMPUTE
from visionlora.speed.folded_norm import FoldedNorm


class Net(nn.Module):
    """A stem, what is tried, a head."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Sequential(*middle)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.tanh(self.middle(self.stem(x))).mean((2, 3)))
        return out


class Twice(nn.Module):
    """The conv's output also goes past the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.bn(y) + y
        return out


class Shared(nn.Module):
    """One norm after two convs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.a(x)) + self.bn(self.b(x))
        return out


class Again(nn.Module):
    """One conv and its norm, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(torch.tanh(self.bn(self.conv(x)))))
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "conv": (lambda: Net(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)), 1),
    "conv with a bias": (lambda: Net(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8)), 1),
    "norm and activation in one": (lambda: Net(nn.Conv2d(8, 8, 1), BatchNormAct2d(8)), 1),
    "norm without parameters": (lambda: Net(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)), 1),
    "grouped": (lambda: Net(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)), 1),
    "depthwise": (lambda: Net(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8)), 1),
    "same padding": (lambda: Net(Conv2dSame(8, 8, 3, stride=2), nn.BatchNorm2d(8)), 1),
    "called again": (lambda: Net(Again()), 1),
    "output used twice": (lambda: Net(Twice()), 0),
    "norm shared": (lambda: Net(Shared()), 0),
    "activation between": (lambda: Net(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(8)), 0),
    "norm first": (lambda: Net(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)), 1),  # the stem's
    "weight-standardised": (lambda: Net(StdConv2d(8, 8, 3), nn.BatchNorm2d(8)), 0),
    "padding of another kind": (lambda: Net(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)), 0),
    "padding by name": (lambda: Net(nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm2d(8)), 0),
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"method": "dora"},
    "dropout": {"dropout": 0.3},
    "pissa": {"init": "pissa"},
    "biases trained": {"train_bias": True},
    "convs alone frozen": {"method": "none"},
}


def made(name: str, **config: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = CASES[name][0]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            tensor(module, "running_mean").normal_()
            tensor(module, "running_var").uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                with torch.no_grad():
                    module.weight[0] = 0.0
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    vl.inject(model, vl.LoraConfig(r=2, targets="all", **config), x)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.3)
    return model.train(), x


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    out = model(x)
    found = {"": out.detach()}
    wanted = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, grad in zip(wanted, torch.autograd.grad(out.square().sum(), list(wanted.values()), allow_unused=True), strict=True):
        found[key] = torch.zeros(1) if grad is None else grad
    return found


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, rtol=1e-10, atol=1e-10 * float(value.abs().max() + 1e-12)), key


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_stay(name: str, method: str) -> None:
    model, x = made(name, **METHODS[method])
    wanted, state = gradients(model, x), {key: value.clone() for key, value in model.state_dict().items()}
    report = vl.fold(model, x)
    if method != "biases trained":  # a norm's bias is one of them
        assert len(report.folded) == CASES[name][1]
    assert_same(gradients(model, x), wanted)
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[key], state[key]) for key in state)


@pytest.mark.parametrize("name", [name for name, (_, folds) in CASES.items() if folds])
def test_folded_in_eval_copied_pickled_undone_merged(name: str) -> None:
    model, x = made(name)
    wanted = gradients(model, x)
    classes = {key: type(module) for key, module in model.named_modules()}
    vl.fold(model, x)
    assert any(isinstance(module, FoldedNorm) for module in model.modules())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(gradients(twin, x), wanted)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), wanted[""], rtol=1e-10)
    vl.unfold(model.train())
    assert {key: type(module) for key, module in model.named_modules()} == classes
    assert not any(COMPUTE in module.__dict__ or "fold" in module.__dict__ for module in model.modules())
    assert_same(gradients(model, x), wanted)
    vl.fold(model, x)
    vl.merge(model)
    assert not any(isinstance(module, FoldedNorm) for module in model.modules())
    assert torch.allclose(model(x), wanted[""], rtol=1e-9)


def test_a_change_of_any_frozen_value_is_seen() -> None:
    model, x = made("conv with a bias")
    folded = copy.deepcopy(model)
    vl.fold(folded, x)
    folded(x)
    other = {key: torch.rand_like(value) + 0.5 for key, value in model.state_dict().items() if value.is_floating_point()}
    for each in (model, folded):
        each.load_state_dict(other, strict=False)
    assert torch.allclose(folded(x), model(x), rtol=1e-10)


def test_a_norm_that_trains_after_all_is_computed_apart() -> None:
    model, x = made("conv")
    folded = copy.deepcopy(model)
    vl.fold(folded, x)
    for each in (model, folded):
        each.get_parameter("middle.1.weight").requires_grad_(True)
    assert_same(gradients(folded, x), gradients(model, x))


def test_norms_that_move_or_train_are_left() -> None:
    for train_norm, freeze in ((True, True), (False, False)):
        torch.manual_seed(0)
        model = CASES["conv"][0]().double()
        x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
        vl.inject(model, vl.LoraConfig(r=2, targets="all", train_norm=train_norm), x, freeze_bn=freeze)
        assert vl.fold(model, x).folded == []


def test_a_second_adapter_comes_and_goes_on_a_folded_model() -> None:
    model, x = made("norm and activation in one")
    wanted = gradients(model, x)[""]
    with vl.disabled(model):
        frozen = model(x)
    assert not torch.allclose(frozen, wanted, rtol=1e-2)
    vl.fold(model, x)
    vl.inject(model, vl.LoraConfig(r=1, targets="all"), x, name="second")
    assert torch.allclose(model(x), frozen, rtol=1e-10)  # it starts at zero
    vl.activate(model, "default")
    assert torch.allclose(model(x), wanted, rtol=1e-10)
    vl.remove(model)
    assert not any(isinstance(module, FrozenStatistics) for module in model.modules())


def test_the_saved_adapter_is_the_unfolded_one(tmp_path: Path) -> None:
    model, x = made("conv")
    vl.save_adapter(model, tmp_path / "plain")
    vl.fold(model, x)
    model(x)
    vl.save_adapter(model, tmp_path / "folded")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "folded" / name).read_bytes()


def test_weights_are_cast_once() -> None:
    """Under autocast, a second step casts no weight again and a frozen weight is in memory in bf16 beside its original."""
    model = vl.create_backbone("timm/resnet18", 4, pretrained=False)
    x = torch.randn(2, 3, 64, 64)
    vl.inject(model, vl.LoraConfig(r=2), x)
    vl.fold(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        held = {name: module.__dict__[COMPUTE].held() for name, module in model.named_modules() if COMPUTE in module.__dict__}
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            model(x)
    large = dict(model.named_parameters())["layer4.1.conv2.weight"]
    assert held["layer4.1.conv2"] >= 2 * large.numel()
    cast = [e.input_shapes for e in profile.events() if e.name == "aten::_to_copy" and list(large.shape) in e.input_shapes]
    assert not cast


class Clamped(nn.Module):
    """In training, the gradient of the conv's output is clamped: nothing that a forward pass without gradients would show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if torch.is_grad_enabled():
            y.register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))
        out: Tensor = self.bn(y)
        return out


class Slope(nn.Module):
    """The gradient of a layer's output is a part of the output, so training differentiates the layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            slope = torch.autograd.grad(torch.tanh(self.conv(x)).sum(), x, create_graph=learns)[0]
        return slope if learns else slope.detach()


@pytest.mark.parametrize(("kind", "left_out"), [(Clamped, "folding norms"), (Slope, "the kernels")])
def test_what_does_not_hold_on_the_model_at_hand_is_left_out(kind: type[nn.Module], left_out: str) -> None:
    torch.manual_seed(0)
    model = Net(kind(), nn.BatchNorm2d(8)).double()
    tensor(model, "middle.1.running_var").fill_(3.0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    plain = copy.deepcopy(model)
    vl.inject(model, vl.LoraConfig(r=2, targets="all"), x)
    report = vl.fold(model, x)
    assert left_out in report.note
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.3)
    got = gradients(model.eval(), x)
    # The gradients of the effective weights of a model without LoRA, taken on to the factors.
    vl.merge(twin := copy.deepcopy(model), keep=False)
    plain.load_state_dict(twin.state_dict())
    out = plain.eval()(x)
    assert torch.allclose(out, got[""], rtol=1e-10)
    plain.zero_grad()
    out.square().sum().backward()
    for name in ("stem", "middle.0.conv"):
        adapter = adapter_of(model, name)
        whole = gradient(tensor(plain, f"{name}.weight")).flatten(1)
        assert torch.allclose(got[f"{name}.lora.weight.default.lora_A"], adapter.scaling * adapter.lora_B.T @ whole, rtol=1e-8)
        assert torch.allclose(got[f"{name}.lora.weight.default.lora_B"], adapter.scaling * whole @ adapter.lora_A.T, rtol=1e-8)


def test_a_speed_up_that_holds_is_not_mentioned() -> None:
    model, x = made("conv")
    assert vl.fold(model, x).note == ""

"""Every kind of layer × every method × everything a LoRA layer must hold to, in float64."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_parts import adapter_of, adapters_of, stored, tensor
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.func import functional_call

from visionlora.lora import LoraConfig, inject, merge, remove, unmerge
from visionlora.lora.layer import LoraLayer, lora_layers


class Reader(nn.Module):
    """Reads a layer's weight past its ``forward``, as BEiT and EVA do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


class Attention(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True, **kwargs)
        self.kv = kwargs.get("kdim", 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, x[..., : self.kv], x[..., : self.kv], need_weights=False)[0]
        return out


class Tied(nn.Module):
    """Two layers share a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(torch.tanh(self.layer(x)))
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear, 3-d input, no bias": (lambda: nn.Linear(6, 5, bias=False), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 7)),
    "conv2d 1×1": (lambda: nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
    "conv2d stride, dilation": (lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=2), (2, 4, 9, 9)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, 4, padding="same", bias=False), (2, 4, 7, 7)),
    "conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 2), (2, 3, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 7, 7)),
    "transposed, grouped, no bias": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7)),
    "transposed 1-d": (lambda: nn.ConvTranspose1d(4, 3, 4), (2, 4, 7)),
    "transposed 3-d": (lambda: nn.ConvTranspose3d(3, 4, 2), (2, 3, 4, 4, 4)),
    "timm same": (lambda: Conv2dSame(4, 6, 3, stride=2), (2, 4, 7, 7)),
    "weight-standardised": (lambda: StdConv2d(4, 6, 3), (2, 4, 7, 7)),
    "scaled weight-standardised": (lambda: ScaledStdConv2d(4, 6, 3), (2, 4, 7, 7)),
    "weight read past forward": (Reader, (4, 6)),
    "attention": (Attention, (2, 3, 8)),
    "attention with kdim": (lambda: Attention(kdim=4, vdim=4), (2, 3, 8)),
    "tied": (Tied, (4, 6)),
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"method": "dora"},
    "pissa": {"init": "pissa"},
    "dora from olora": {"method": "dora", "init": "olora"},
    "orthogonal": {"init": "orthogonal"},
    "adalora": {"method": "adalora"},
}
LORA = [(case, "lora") for case in CASES]
Made = tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]


@pytest.fixture(params=[(case, method) for method in METHODS for case in CASES], ids=", ".join)
def made(request: pytest.FixtureRequest) -> Made:
    """``(adapted model with random adapters, input, output before injection, state dict before injection)``."""
    torch.manual_seed(0)
    case, method = request.param
    build, shape = CASES[case]
    model = nn.Sequential(build()).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    before, state = model(x).detach(), {key: value.clone() for key, value in model.state_dict().items()}
    inject(model, LoraConfig(r=2, targets="all", **METHODS[method]), example=x)
    assert torch.allclose(model(x), before, rtol=1e-13, atol=1e-13)
    for parameter in trainable(model).values():
        parameter.data += torch.randn_like(parameter).mul_(0.5)
    return model, x, before, state


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_is_what_it_was(made: Made) -> None:
    model, _, _, state = made
    for _, layer in lora_layers(model):
        assert isinstance(layer, layer.base_class)
    base_keys = [key for key in model.state_dict() if ".lora." not in key]
    assert base_keys == list(state)
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_merge_gives_the_same_output_and_unmerge_the_same_bits(made: Made) -> None:
    model, x, before, state = made
    adapted = model(x)
    assert not close(adapted, before)
    keys = list(model.state_dict())
    merge(model)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    assert list(model.state_dict()) == list(state)
    assert close(model(x), adapted)
    merged = copy.deepcopy(model)
    assert torch.equal(unmerge(merged)(x), adapted)
    unmerge(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), adapted)
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_gradients_are_those_of_the_property(made: Made) -> None:
    """Plain autograd through ``W + s·BA`` is the reference of the fast paths."""
    model, x, _, _ = made
    parameters = trainable(model)
    reference = copy.deepcopy(model)
    for layer in reference.modules():  # the property instead of the fast path
        if isinstance(layer, LoraLayer):
            layer.__class__ = type("Reference", (type(layer),), {"forward": layer.base_class.forward})
    xs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [m(v) for m, v in zip((model, reference), xs, strict=True)]
    assert close(*outs)
    weights = torch.randn_like(outs[0])
    ours, theirs = (
        torch.autograd.grad((o * weights).sum(), [v, *trainable(m).values()]) for o, v, m in zip(outs, xs, (model, reference), strict=True)
    )
    assert len(ours) == len(parameters) + 1
    for a, b in zip(ours, theirs, strict=True):
        assert close(a, b)
        assert a.any()


def test_copies_and_pickles(made: Made) -> None:
    model, x, _, _ = made
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        next(iter(trainable(other).values())).data.zero_()
        assert not torch.equal(other(x), model(x))


def test_remove_leaves_the_model_as_it_was(made: Made) -> None:
    model, x, before, state = made
    remove(model)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    assert list(model.state_dict()) == list(state)
    assert torch.equal(model(x), before)
    assert all(p.requires_grad for p in model.parameters())


def test_base_checkpoint_loads_after_injection(made: Made) -> None:
    model, x, _, state = made
    adapted = model(x)
    model.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
    model.load_state_dict(state)  # strict: the adapter's keys may be missing
    assert torch.equal(model(x), adapted)


@pytest.mark.parametrize("made", LORA, indirect=True, ids=CASES)
def test_functional_call_sees_other_weights(made: Made) -> None:
    model, x, _, _ = made
    zeros = {key: torch.zeros_like(value) for key, value in model.named_parameters() if key.endswith("lora_B")}
    plain = remove(copy.deepcopy(model))
    assert close(functional_call(model, zeros, x), plain(x))


def test_tied_weights_have_one_adapter() -> None:
    model = Tied()
    report = inject(model, LoraConfig(r=2, targets="all"))
    assert len(report.layers) == 1
    assert len(trainable(model)) == 2


def test_errors_in_the_getter_are_not_hidden() -> None:
    """``nn.Module.__getattr__`` would return the frozen weight, silently."""
    model = nn.Sequential(StdConv2d(4, 6, 3))
    inject(model, LoraConfig(r=2, targets="all"))
    del adapter_of(model).lora_A
    with pytest.raises(RuntimeError, match="weight of LoraStdConv2d"):
        model(torch.randn(1, 4, 5, 5))


def test_several_adapters_add_up() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5)).double(), torch.randn(3, 6).double()
    base = model(x)
    deltas = []
    for name in ("one", "two"):
        inject(model, LoraConfig(r=2, targets="all"), name=name)
        added = adapter_of(model, name=name)
        nn.init.normal_(added.lora_B)
        deltas.append(added.delta())
    adapters_of(model).activate({"one": 1, "two": 0.5})
    assert close(model(x), base + x @ (deltas[0] + 0.5 * deltas[1]).T)
    assert close(tensor(model, "0.weight") @ x.T, (model(x) - model[0].bias).T)


@pytest.mark.parametrize("build", [lambda: nn.Linear(64, 5), lambda: StdConv2d(8, 5, 3)])
def test_dropout_masks_columns_in_training_only(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(build())
    inject(model, LoraConfig(r=2, targets="all", dropout=0.5))
    nn.init.normal_(adapter_of(model).lora_B)
    full = adapter_of(model).delta()
    raw = stored(model[0])
    ratio = torch.mm(*adapters_of(model).factors(raw)[:2]) / full
    assert all(any(torch.allclose(column, torch.tensor(v), atol=1e-4) for v in (0.0, 2.0)) for column in ratio.T)
    assert 0 < (ratio[0].abs() < 1e-3).float().mean() < 1
    model.eval()
    assert torch.allclose(torch.mm(*adapters_of(model).factors(raw)[:2]), full)


def test_update_is_formed_in_float32_under_autocast() -> None:
    """Added in bf16, an update of a thousandth of the weight would vanish."""
    model = nn.Sequential(StdConv2d(4, 6, 3))
    inject(model, LoraConfig(r=2, targets="all"))
    nn.init.constant_(adapter_of(model).lora_B, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        weight = tensor(model, "0.weight")
    assert weight.dtype == torch.float32
    delta = adapter_of(model).delta().view_as(weight)
    assert torch.allclose(weight - stored(model[0]), delta, atol=1e-7)


def test_compiles_into_one_graph() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), StdConv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    x = torch.randn(2, 3, 8, 8)
    inject(model, LoraConfig(r=2, targets="all"))
    for name, _ in lora_layers(model):
        nn.init.normal_(adapter_of(model, name).lora_B)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)

"""Canaries: what is private to torch and timm still does what is taken for granted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from visionlora.common import compat
from visionlora.common.watching import watching


def test_transforms_of_torch_func_are_noticed() -> None:
    seen = []

    def asks(x: torch.Tensor) -> torch.Tensor:
        seen.append(compat.traced())
        return x

    torch.func.vmap(asks)(torch.zeros(2))
    torch.func.grad(asks)(torch.tensor(1.0))
    assert seen == [True, True]
    assert not compat.traced()


def test_a_view_becomes_a_tensor_of_its_own() -> None:
    base = torch.randn(4, 3)
    own = compat.owned(base.view(3, 4))
    assert not own._is_view()
    assert torch.equal(own, base.view(3, 4))
    assert compat.owned(base) is base


def test_writes_in_place_are_counted() -> None:
    x = torch.zeros(3)
    before = compat.changes(x)
    x.add_(1)
    assert compat.changes(x) == before + 1
    x.view(3, 1).mul_(2)  # through a view too
    assert compat.changes(x) == before + 2


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_convolution(stride: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(x, weight, None, stride, 1, 1, groups)
    grad = torch.randn_like(out)
    wanted = torch.autograd.grad(out, (x, weight), grad)
    shape = ((stride, stride), (1, 1), (1, 1), groups)
    found = compat.convolution_gradients(grad, x.detach(), weight.detach(), *shape, (True, True))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert compat.convolution_gradients(grad, x.detach(), weight.detach(), *shape, (False, True))[0] is None


def test_the_gradient_of_a_softmax() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    out = x.softmax(-1)
    grad = torch.randn_like(out)
    torch.testing.assert_close(compat.softmax_gradient(grad, out.detach()), torch.autograd.grad(out, x, grad)[0])


def test_versions_travel_with_a_state() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    plain = {key: value.clone() for key, value in model.state_dict().items()}
    state: Any = compat.versioned(model, plain)
    assert state._metadata["0"]["version"] == 2
    assert list(state) == list(plain)


def test_timms_config_is_written(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    compat.save_hub_config(model, tmp_path / "config.json", {"num_classes": 3, "label_names": ["a", "b", "c"]}, {"in_chans": 3})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architecture"] == "test_resnet"
    assert written["num_classes"] == 3
    assert written["model_args"]["in_chans"] == 3


def test_hooks_are_gone_afterwards_also_where_making_or_running_them_failed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    seen: list[str] = []
    with watching(m.register_forward_hook(lambda *_: seen.append("ran")) for m in model):
        model(torch.zeros(1, 2))
    assert seen == ["ran", "ran"]

    def breaking() -> Iterator[RemovableHandle]:
        yield model[0].register_forward_hook(lambda *_: seen.append("left"))
        raise KeyError

    with pytest.raises(KeyError), watching(breaking()):
        raise AssertionError("it does not come here")
    with pytest.raises(ZeroDivisionError), watching([model[0].register_forward_hook(lambda *_: 1 / 0)]):
        model(torch.zeros(1, 2))
    model(torch.zeros(1, 2))
    assert seen == ["ran", "ran"]

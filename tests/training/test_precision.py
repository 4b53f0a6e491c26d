"""``trainer.precision``: bfloat16 only where a CPU computes every gradient in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, compose
from torch import nn

import visionlora as vl
from visionlora import UserError
from visionlora.common.compat import loses_gradients_in_bf16
from visionlora.training import precision
from visionlora.training.precision import layer_that_loses_gradients, trustworthy
from visionlora.training.run import run

SMALL = (*QUIET, "data=fake", "model=timm", "model.name=test_resnet", "model.pretrained=false", "trainer=cpu", "recipe=plain")
"""At 16 px its last block has steps of two over a single pixel."""


def model(side: int, **lora: Any) -> nn.Module:
    made = vl.create_backbone("timm/test_resnet", num_classes=3, pretrained=False, image_size=side)
    vl.inject(made, vl.LoraConfig(r=2, targets="all", **lora))
    return made


@pytest.mark.parametrize(("side", "found"), [(16, ("layer4.0.conv1", (1, 1))), (32, None)])
def test_the_layer_is_found(side: int, found: tuple[str, tuple[int, int]] | None) -> None:
    for mixed in (True, False):
        assert layer_that_loses_gradients(model(side), mixed) == found


def test_a_layer_that_is_not_trained_loses_nothing() -> None:
    made = vl.create_backbone("timm/test_resnet", num_classes=3, pretrained=False, image_size=16)
    vl.inject(made, vl.LoraConfig(method="none"))
    assert layer_that_loses_gradients(made, mixed=True) is None


def test_auto_takes_float32_and_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda accelerator: "bf16-mixed")
    config = compose(*SMALL)
    assert trustworthy(config, model(32)) is config
    assert trustworthy(config, model(16)).trainer["precision"] == "32-true"
    growing = compose(*SMALL, "data.progressive=0.5")  # from 16 px
    assert trustworthy(growing, model(32)).trainer["precision"] == "32-true"
    assert "trainer.precision=auto takes float32: on a CPU, torch does not compute the gradient of layer4.0.conv1" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("chosen", ["bf16-mixed", "bf16-true"])
def test_the_user_s_own_is_refused_in_a_sentence(chosen: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"trainer\.precision={chosen}: .* layer4\.0\.conv1 .* 1 × 1 pixels; set trainer\.precision=32-true"
    ):
        run(compose(*SMALL, f"trainer.precision={chosen}", "data.image_size=16"), tmp_path)


def test_what_is_let_through_is_right() -> None:
    """Kernels over one to three pixels, in bfloat16 beside float32."""
    torch.manual_seed(0)
    for side, kernel, stride in [(1, 3, 1), (2, 3, 2), (2, 5, 1), (3, 5, 2), (3, 7, 1)]:
        conv = nn.Conv2d(64, 8, kernel, stride, kernel // 2)
        assert not loses_gradients_in_bf16(conv, side, side)
        x, gradients = torch.randn(4, 64, side, side), []
        for dtype in (torch.float32, torch.bfloat16):
            poison = [torch.full_like(conv.weight, torch.nan, dtype=dtype) for _ in range(4)]
            del poison  # what is not written is then not zero by chance
            found = conv.to(dtype)(x.to(dtype))
            gradients.append(torch.autograd.grad(found, conv.weight, torch.ones_like(found))[0].float())
            conv.to(torch.float32)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.5)

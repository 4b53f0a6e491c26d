"""Where a model is cut, and that the rest is the same without what comes before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quickly import quickly
from torch import Tensor, nn

import visionlora as vl
from visionlora.speed.prefix import Front

CASES = [
    ("timm/resnet18", {"method": "none"}, "global_pool"),
    ("timm/vit_tiny_patch16_224", {"targets": ["last:1"]}, "blocks.10"),
    ("timm/densenet121", {"targets": ["stage4"]}, "features.transition3"),
    ("timm/resnet18", {"targets": ["stage4"]}, "layer3"),
    ("timm/resnet18", {"targets": ["last:1"]}, "layer4.0"),
    ("torchvision/vit_b_32", {"targets": ["last:1"]}, "encoder.layers.encoder_layer_10"),
    ("torchvision/googlenet", {"targets": ["last:1"]}, "inception5a"),
]


def made(name: str, **config: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = vl.create_backbone(name, 5, pretrained=False)
    x = vl.example_batch(model)
    vl.inject(model, vl.LoraConfig(r=2, **config), x)
    vl.fold(model, x)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.1)
    return model, x


@pytest.mark.parametrize(("name", "config", "cut"), quickly(CASES, 3, names=3))
def test_logits_and_gradients_are_those_of_the_whole_model(name: str, config: dict[str, Any], cut: str) -> None:
    model, x = made(name, **config)
    front = Front(model, x)
    assert front.name == cut
    x = torch.cat([x, x.flip(-1), x + 1])  # another batch size than the one it was found with
    with torch.no_grad():
        features = front.features(x)
    assert features.shape[1:] == front.shape
    trained = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    found = [torch.autograd.grad(logits.sum(), trained) for logits in (front.logits(features), model(x))]
    for got, wanted in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_front_is_not_computed_again() -> None:
    model, x = made("timm/resnet18", targets=["stage4"])
    front = Front(model, x)
    calls = []
    hook = model.get_submodule("layer1.0.conv1").register_forward_hook(lambda *_: calls.append(1))
    features = front.features(x)
    assert len(calls) == 1
    front.logits(features)
    assert len(calls) == 1
    hook.remove()


class Skips(nn.Module):
    """Reads its stem's output again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        out: Tensor = self.fc((torch.tanh(self.body(torch.tanh(y))) + y).mean((2, 3)))
        return out


def resnet() -> nn.Module:
    return vl.create_backbone("timm/test_resnet", 2, pretrained=False)


def dropping() -> nn.Module:
    return vl.create_backbone("timm/test_vit", 2, pretrained=False, drop_path_rate=0.5)


@pytest.mark.parametrize(
    ("model", "config", "freeze", "why"),
    [
        (Skips, {"targets": ["body"]}, True, ""),  # the stem's output is the cut: it has all that is read
        (Skips, {"targets": ["stem"]}, True, "stem is trained, and nothing is computed before it"),
        (resnet, {"targets": ["stage4"]}, False, "statistics of .* move"),
        (dropping, {"targets": ["last:1"]}, True, "drops at random"),
        (lambda: vl.create_backbone("torchvision/convnext_tiny", 2, pretrained=False), {"targets": ["stage4"]}, True, "drops at random"),
    ],
)
def test_why_there_is_no_front(model: Any, config: dict[str, Any], freeze: bool, why: str) -> None:
    made = model()
    x = vl.example_batch(made) if why and model is not Skips else torch.randn(2, 3, 8, 8)
    vl.inject(made, vl.LoraConfig(r=1, **config), x, freeze_bn=freeze)
    if not why:
        assert Front(made, x).name == "stem"
        return
    with pytest.raises(vl.UserError, match=why):
        Front(made, x)

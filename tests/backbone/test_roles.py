"""Roles over both libraries."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from visionlora import UserError
from visionlora.backbone.head import find_head
from visionlora.backbone.roles import Roles


def model_of(name: str) -> nn.Module:
    source, _, kind = name.partition("/")
    model: nn.Module
    if source == "timm":
        with torch.device("meta"):
            model = timm.create_model(kind, num_classes=3)
    else:
        model = torchvision.models.get_model(kind, num_classes=3)
    return model


def chosen(name: str, role: str) -> list[str]:
    model = model_of(name)
    names = Roles(model, find_head(model))(role)
    assert names is not None
    layers = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    return [n for n in names if isinstance(model.get_submodule(n), layers)]


_ENCODER = "encoder.layers.encoder_layer_"
ROLES: list[tuple[str, str, list[str]]] = [
    # model, role, what every layer of that role starts with or holds, in order of the first and the last
    ("timm/resnet18", "stem", ["conv1", "conv1"]),
    ("timm/resnet18", "stage1", ["layer1.0.conv1", "layer1.1.conv2"]),
    ("timm/resnet18", "stage3+", ["layer3.0.conv1", "layer4.1.conv2"]),
    ("timm/resnet18", "last:1", ["layer4.1.conv1", "layer4.1.conv2"]),
    ("timm/resnet18", "conv", ["conv1", "layer4.1.conv2"]),
    ("timm/vit_tiny_patch16_224", "attn", ["blocks.0.attn.qkv", "blocks.11.attn.proj"]),
    ("timm/vit_tiny_patch16_224", "mlp", ["blocks.0.mlp.fc1", "blocks.11.mlp.fc2"]),
    ("timm/vit_tiny_patch16_224", "last:2", ["blocks.10.attn.qkv", "blocks.11.mlp.fc2"]),
    ("timm/convnext_atto", "stage4", ["stages.3.downsample.1", "stages.3.blocks.1.mlp.fc2"]),
    ("timm/convnext_atto", "mlp", ["stages.0.blocks.0.mlp.fc1", "stages.3.blocks.1.mlp.fc2"]),
    ("timm/swin_tiny_patch4_window7_224", "attn", ["layers.0.blocks.0.attn.qkv", "layers.3.blocks.1.attn.proj"]),
    ("timm/tf_efficientnet_lite0", "stage7", ["blocks.6.0.conv_pw", "conv_head"]),
    ("timm/poolformer_s12", "stage2", ["stages.1.downsample.conv", "stages.1.blocks.1.mlp.fc2"]),
    ("torchvision/resnet18", "stage2+", ["layer2.0.conv1", "layer4.1.conv2"]),
    ("torchvision/vit_b_32", "attn", [f"{_ENCODER}0.self_attention", f"{_ENCODER}11.self_attention.out_proj"]),
    ("torchvision/vit_b_32", "last:1", [f"{_ENCODER}11.self_attention", f"{_ENCODER}11.mlp.3"]),
    ("torchvision/convnext_tiny", "stage2", ["features.2.1", "features.3.2.block.5"]),
    ("torchvision/swin_t", "mlp", ["features.1.0.mlp.0", "features.7.1.mlp.3"]),
    ("torchvision/mobilenet_v3_small", "stem", ["features.0.0", "features.0.0"]),
    ("torchvision/regnet_y_400mf", "last:1", ["trunk_output.block4.block4-5.f.a.0", "trunk_output.block4.block4-5.f.c.0"]),
]


@pytest.mark.parametrize(("name", "role", "ends"), ROLES, ids=lambda v: v if isinstance(v, str) else "")
def test_roles(name: str, role: str, ends: list[str]) -> None:
    names = chosen(name, role)
    assert [names[0], names[-1]] == ends


def test_stages_and_blocks_are_a_partition() -> None:
    for name in ("timm/resnet18", "timm/vit_tiny_patch16_224", "timm/poolformer_s12", "torchvision/swin_t", "torchvision/densenet121"):
        roles = Roles(model_of(name))
        for kind in ("stages", "blocks"):
            grouped = [n for group in roles.groups(kind) for n in group]
            assert sorted(grouped) == sorted(roles.modules), (name, kind)


def test_gates_of_convnets_are_not_attention() -> None:
    with pytest.raises(UserError, match="no layer of the model has the role 'attn'"):
        chosen("timm/seresnet50", "attn")


@pytest.mark.parametrize(
    ("role", "message"),
    [("stage5", "no stage 5; it has stages 1 to 4"), ("stage9+", "no stage 9"), ("last:99", "asks for 99 blocks; the model has 8")],
)
def test_roles_the_model_does_not_have(role: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen("timm/resnet18", role)


def test_other_patterns_are_not_roles() -> None:
    roles = Roles(model_of("timm/resnet18"))
    assert roles("layer4") is None
    assert roles("re:layer4") is None

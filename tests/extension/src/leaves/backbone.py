"""A library of backbones: one network, in the sizes ``small`` and ``large``."""

from torch import nn

import visionlora as vl


def build(spec: vl.BackboneSpec, load: bool) -> tuple[nn.Module, vl.BackboneInfo]:
    """The network ``spec.name``; there are no pretrained weights to load."""
    width = {"small": 8, "large": 32}.get(spec.name)
    if width is None:
        raise vl.UserError(f"model.name={spec.name}: the library tiny has small and large.")
    if load:
        raise vl.UserError("the library tiny has no pretrained weights; set model.pretrained=false.")
    body = [nn.Conv2d(spec.in_chans, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, groups=4), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, spec.num_classes))
    return model, vl.BackboneInfo(
        spec, vl.Preprocessing(spec.image_size or 32, mean=(0.5,) * spec.in_chans, std=(0.5,) * spec.in_chans), head=("6",)
    )

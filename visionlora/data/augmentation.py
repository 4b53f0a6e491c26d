"""Ready-made augmentations, torchvision's own, by the names of ``data.transform``."""

from __future__ import annotations

from torch import nn
from torchvision.transforms import v2

from visionlora.data.config import DataConfig


def trivial_augment(config: DataConfig) -> nn.Module:
    """One random operation at a random strength (Müller and Hutter 2021, arXiv 2103.10158)."""
    return v2.TrivialAugmentWide()  # type: ignore[no-any-return]


def auto_augment(config: DataConfig) -> nn.Module:
    """The policy learned on ImageNet (Cubuk et al. 2019, arXiv 1805.09501)."""
    return v2.AutoAugment()  # type: ignore[no-any-return]


def aug_mix(config: DataConfig) -> nn.Module:
    """Mixed chains of operations (Hendrycks et al. 2020, arXiv 1912.02781)."""
    return v2.AugMix()  # type: ignore[no-any-return]

"""Build a backbone from timm or torchvision, with what we know of it beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visionlora.backbone.config import BACKBONES
from visionlora.backbone.info import ATTRIBUTE, BackboneInfo, BackboneSpec, fingerprint, info_of
from visionlora.backbone.modules import small_image_stem
from visionlora.backbone.placed.decoders import DECODERS
from visionlora.common.compat import versioned
from visionlora.common.errors import UserError
from visionlora.common.finite import refuse_not_finite


def create_backbone(name: str, num_classes: int, pretrained: bool = True, **options: Any) -> nn.Module:
    """A classifier; its head is fresh unless the pretrained one has as many classes.

    Args:
        name: ``timm/NAME`` (tags allowed: ``timm/resnet18.a1_in1k``) or ``torchvision/NAME``; without a source, timm's.
        num_classes: number of logits.
        pretrained: load weights; from the library's hub unless ``weights`` names others.
        **options: ``weights`` (a file, safetensors or a state dict, or ``pip:PACKAGE``), ``in_chans`` (another number of
            channels than 3: the first layer is remade), ``image_size`` (pixels), ``stem`` (``default`` or ``small``),
            ``drop_rate``, ``drop_path_rate``, ``decoder`` (what goes over the model in place of its head, for masks or boxes).

    Returns:
        The library's own module; ``model.backbone_info`` says where it came from and how to prepare its images.

    Raises:
        UserError: unknown model, weights that cannot be had or do not fit, no network.
    """
    source, _, model_name = name.rpartition("/")
    return build(BackboneSpec(source or "timm", model_name, num_classes, pretrained, **options))


def build(spec: BackboneSpec, state: dict[str, Tensor] | None = None) -> nn.Module:
    """Build the backbone ``spec`` describes; see ``create_backbone``.

    Args:
        spec: what to build.
        state: the base's weights, to take instead of loading them from where ``spec`` says.
    """
    BACKBONES.check(spec.source)
    if spec.weights is not None and not spec.weights.startswith("pip:") and not spec.pretrained:
        raise UserError(f"model.weights={spec.weights} is not read with model.pretrained=false; leave one of them out.")
    model: nn.Module
    builder = BACKBONES[spec.source] if spec.decoder is None else DECODERS[spec.decoder]
    model, info = builder(spec, load=spec.pretrained and state is None)
    if not info.head:
        raise UserError(f"{spec.full_name} has no classifier to train; it is not an image classifier.")
    if spec.stem == "small":
        info.remade = tuple(dict.fromkeys((*info.remade, *small_image_stem(model, spec.full_name))))
    elif spec.stem != "default":
        raise UserError(f"model.stem={spec.stem} is unknown; it is default or small.")
    if state is not None:
        try:
            model.load_state_dict(versioned(model, state))
        except RuntimeError as error:
            raise UserError(
                f"the weights that the run keeps of its base do not fit {spec.full_name}: {' '.join(str(error).split())[:200]}"
            ) from None
    if spec.pretrained or state is not None:
        refuse_not_finite(model.named_parameters(), f"the weights of {spec.full_name}")
    info.fingerprint = _fingerprint(model, info)
    setattr(model, ATTRIBUTE, info)
    return model


def rebuild(info: BackboneInfo, state: dict[str, Tensor] | None = None) -> nn.Module:
    """Build the base ``info`` describes again, from ``state`` where its weights cannot be had by name; random states are as before.

    Raises:
        UserError: the weights are not the ones ``info`` was made with.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn at random is replaced
        model = build(info.spec, state)
    own = info_of(model)
    assert own is not None
    for key in ("head", "remade", "resized"):
        if getattr(own, key) != getattr(info, key):
            raise UserError(f"{info.spec.full_name} has other {key} layers than this run's card says; the card is damaged.")
    found = _fingerprint(model, info)
    if found != info.fingerprint:
        raise UserError(
            f"the weights of {info.spec.full_name} are not the ones this run was trained on"
            f" (fingerprint {found[:12]}, expected {info.fingerprint[:12]}): they changed at their source."
        )
    setattr(model, ATTRIBUTE, info)
    return model


def _fingerprint(model: nn.Module, info: BackboneInfo) -> str:
    # Weights resized to another image size are left out: interpolation differs in the last bits from machine to machine.
    return fingerprint(model.state_dict(), without=(*info.head, *info.remade, *info.resized))

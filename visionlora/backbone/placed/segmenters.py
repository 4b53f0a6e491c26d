"""A decoder of segmentation_models_pytorch over any timm model: ``(N, C, H, W) -> (N, classes, H, W)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from visionlora.backbone.info import BackboneInfo, BackboneSpec
from visionlora.backbone.placed.maps import feature_info, is_narrow, preprocessing_at_least, remade, without_reserved_name
from visionlora.backbone.timm_models import features_arguments, without_word_of_heads
from visionlora.backbone.weights import hub_access
from visionlora.common.errors import UserError
from visionlora.common.smp import segmentation_models

NARROWER: dict[str, dict[str, Any]] = {"fpn": {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64}}
"""What decoders over a narrow backbone are told: over EfficientNet-Lite0, a step of this FPN takes a third of the time."""
SIZE = 352
"""Pixels a side where ``data.image_size`` is not given: on CamVid mIoU was 54.8 at 224 and 60.6 at 352 (docs/boxes.md)."""
HEAD = ("decoder", "neck", "segmentation_head")
"""What is made anew over the encoder, as far as a decoder has it."""


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build the encoder ``spec.name`` with its weights, if ``load``, and the decoder ``spec.decoder`` with random ones.

    Raises:
        UserError: the model gives no maps of features that this decoder takes, or its weights cannot be had.
    """
    if spec.source != "timm":
        raise UserError(f"model.decoder={spec.decoder} goes over models of timm, and {spec.full_name} is none.")
    models = segmentation_models(f"model.decoder={spec.decoder}")
    arguments = features_arguments(spec, load)
    pretrained = arguments.pop("pretrained")
    if _is_narrow(spec):
        arguments |= NARROWER.get(str(spec.decoder), {})
    try:
        with hub_access(f"timm's {spec.name}", hugging_face=True), without_word_of_heads():
            model = models.create_model(
                spec.decoder,
                encoder_name=f"tu-{spec.name}",
                encoder_weights=True if pretrained else None,
                in_channels=spec.in_chans,
                classes=spec.num_classes,
                **arguments,
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError, IndexError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.decoder={spec.decoder} cannot be put over {spec.full_name}: {why}; try another decoder or model; over vision"
            " transformers, whose maps all have one size, goes model.decoder=dpt."
        ) from None
    encoder: Any = model.encoder
    inner = encoder.model
    without_reserved_name(inner)
    if hasattr(inner, "reset_classifier"):  # a vision transformer below DPT keeps its classifier, which nothing asks for its outputs
        inner.reset_classifier(0)
    head = tuple(name for name in HEAD if isinstance(getattr(model, name, None), nn.Module))
    return model, BackboneInfo(spec, preprocessing_at_least(spec, SIZE), head, remade=remade(spec, encoder, "encoder"))


def _is_narrow(spec: BackboneSpec) -> bool:
    """Whether the backbone's last map has few channels; a model without maps is not narrow."""
    try:
        return is_narrow(feature_info(spec).channels())
    except ValueError:
        return False

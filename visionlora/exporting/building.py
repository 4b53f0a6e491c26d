"""How the exported weights get a model around them again: the arguments of timm's, torchvision's and our own constructors."""

from __future__ import annotations

from typing import Any

from visionlora.backbone import timm_models, torchvision_models
from visionlora.backbone.info import BackboneSpec
from visionlora.common.errors import UserError
from visionlora.exporting.facts import Facts


def refuse_other_source(facts: Facts, source: str) -> None:
    """See that ``source``, timm or torchvision, can build the model.

    Raises:
        UserError: it cannot; the message names a format that can hold the model.
    """
    spec = facts.spec
    if spec is None:
        raise UserError(f"format={source}: the model is a {facts.name}, which {source} did not build; take format=onnx, pt2 or state_dict.")
    if spec.source != source:
        raise UserError(f"format={source}: the model is {spec.full_name}; take format={spec.source}.")
    if spec.decoder is not None:
        raise UserError(f"format={source} holds classifiers; the model is {spec.words}. Take format=state_dict, onnx or pt2.")
    if spec.stem != "default":
        raise UserError(f"model.stem={spec.stem} is visionlora's own; {spec.source} cannot build it. Take format=state_dict, onnx or pt2.")
    if source == "torchvision" and spec.in_chans != 3:
        raise UserError("torchvision builds its models for three channels; take format=state_dict, onnx or pt2.")


def spec_of(facts: Facts) -> BackboneSpec:
    """The description of how the model is built; ``refuse_other_source`` has seen before that there is one."""
    assert facts.spec is not None
    return facts.spec


def timm_arguments(facts: Facts) -> dict[str, Any]:
    """What ``timm.create_model`` is called with beside the model's name."""
    spec = spec_of(facts)
    channels = {"in_chans": spec.in_chans} if spec.in_chans != 3 else {}
    return {"num_classes": facts.num_classes, **channels, **timm_models.size_argument(spec)}


def timm_name(facts: Facts) -> str:
    """The model's name without the tag of its pretrained weights, which an export does not need."""
    return spec_of(facts).name.split(".")[0]


def torchvision_arguments(facts: Facts) -> dict[str, Any]:
    """What ``torchvision.models.get_model`` is called with beside the model's name."""
    spec, size = spec_of(facts), facts.shape[-1]
    auxiliary = torchvision_models.auxiliary_arguments(spec)
    return {"num_classes": facts.num_classes, **torchvision_models.size_argument(spec.name, size), **auxiliary}


def own_arguments(facts: Facts) -> dict[str, Any]:
    """What ``vl.create_backbone`` is called with beside the model's name and the number of classes."""
    spec = spec_of(facts)
    said = {
        "in_chans": (spec.in_chans, 3),
        "stem": (spec.stem, "default"),
        "image_size": (spec.image_size, None),
        "decoder": (spec.decoder, None),
    }
    return {"pretrained": False, **{key: value for key, (value, usual) in said.items() if value != usual}}

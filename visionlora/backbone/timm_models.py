"""Backbones from timm."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import nn

from visionlora.backbone.info import BackboneInfo, BackboneSpec, Preprocessing, per_channel
from visionlora.backbone.weights import hub_access, read_weights
from visionlora.common.errors import UserError, did_you_mean


def names() -> list[str]:
    """Every model name timm knows, without pretrained tags."""
    return list(timm.list_models())


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec`` and load its weights if ``load``; timm itself adapts them to the channels and image size."""
    name = spec.name.split(".")[0]
    if not timm.is_model(name):
        raise UserError(f"model.name={spec.name}: timm has no such model.{did_you_mean(name, names())}")
    arguments: dict[str, Any] = {"num_classes": spec.num_classes, "in_chans": spec.in_chans}
    arguments |= {key: rate for key in ("drop_rate", "drop_path_rate") if (rate := getattr(spec, key))}
    try:
        config = timm.get_pretrained_cfg(spec.name)
    except RuntimeError:
        raise UserError(f"model.name={spec.name}: timm has no weights tagged {spec.name.partition('.')[2]!r} for {name}.") from None
    arguments |= size_argument(spec)
    pretrained_head = False
    if load and spec.weights is not None:
        model, pretrained_head = _from_state(spec, arguments)
    elif load:
        if config is None or not config.has_weights:
            raise UserError(f"model.name={spec.name}: timm has no pretrained weights for it; use model.pretrained=false.")
        with hub_access(f"timm's {spec.name}", hugging_face=True):
            model = _create(spec, arguments, pretrained=True)
        pretrained_head = spec.num_classes == config.num_classes
    else:
        model = _create(spec, arguments)
    info = _describe(model, spec)
    if not pretrained_head:
        _fresh_heads(model, info.head)
    if "img_size" in arguments:
        own = _shapes(spec.name)
        info.resized = tuple(key for key, value in model.state_dict().items() if own.get(key) != value.shape and not _within(key, info))
    return model, info


def features_arguments(spec: BackboneSpec, load: bool) -> dict[str, Any]:
    """What ``timm.create_model`` is told beside the name and the channels, to build the model without its head and with its weights.

    Raises:
        UserError: timm has no such model, or no such weights.
    """
    name = spec.name.split(".")[0]
    if not timm.is_model(name):
        raise UserError(f"model.name={spec.name}: timm has no such model.{did_you_mean(name, names())}")
    arguments: dict[str, Any] = {key: rate for key in ("drop_rate", "drop_path_rate") if (rate := getattr(spec, key))}
    arguments |= size_argument(spec) | {"pretrained": load}
    if load and spec.weights is not None:
        with torch.device("meta"):
            state = read_weights(spec.weights, timm.create_model(spec.name).state_dict())
        arguments["pretrained_cfg_overlay"] = {"state_dict": state, "custom_load": False}
    elif load:
        config = timm.get_pretrained_cfg(spec.name)
        if config is None or not config.has_weights:
            raise UserError(f"model.name={spec.name}: timm has no pretrained weights for it; use model.pretrained=false.")
    return arguments


@contextlib.contextmanager
def without_word_of_heads() -> Iterator[None]:
    """Inside, timm does not warn that weights have a head which a model without one leaves out."""
    logger = logging.getLogger("timm.models._builder")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def preprocessing_of(spec: BackboneSpec) -> Preprocessing:
    """How the model wants its images, by what timm says of it."""
    config = timm.get_pretrained_cfg(spec.name)
    return _preprocessing(config.to_dict() if config else {}, spec)


def size_argument(spec: BackboneSpec) -> dict[str, Any]:
    """What a constructor has to be told of the size of the images: some models have windows or position embeddings made for one."""
    config = timm.get_pretrained_cfg(spec.name)
    return {"img_size": spec.image_size} if spec.image_size is not None and config is not None and config.fixed_input_size else {}


def _create(spec: BackboneSpec, arguments: dict[str, Any], **more: Any) -> nn.Module:
    try:
        return timm.create_model(spec.name, **arguments, **more)  # type: ignore[no-any-return]
    except (TypeError, AssertionError) as error:
        raise UserError(f"model.name={spec.name} does not take these arguments ({', '.join(arguments)}): {error}") from None


def _from_state(spec: BackboneSpec, arguments: dict[str, Any]) -> tuple[nn.Module, bool]:
    """The model with the weights ``spec.weights`` names, and whether its head is theirs: it is where the number of classes agrees."""
    assert spec.weights is not None
    wanted = _shapes(spec.name, num_classes=spec.num_classes)
    with torch.device("meta"):
        state = read_weights(spec.weights, timm.create_model(spec.name).state_dict())
    config = timm.get_pretrained_cfg(spec.name)
    heads = tuple(head + "." for head in _as_tuple(config.classifier if config else ()))
    of_head = [key for key in wanted if key.startswith(heads)] if heads else []
    pretrained_head = all(key in state and state[key].shape == wanted[key] for key in of_head)
    if not pretrained_head:
        state |= {key: torch.zeros(wanted[key]) for key in of_head}  # so that timm checks every other key strictly
    overlay = {"state_dict": state, "num_classes": spec.num_classes, "label_offset": 0, "custom_load": False}
    try:
        model = _create(spec, arguments, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"model.weights={spec.weights} does not fit {spec.full_name}: {' '.join(str(error).split())[:200]}") from None
    _pretrained_cfg(model).pop("state_dict", None)
    return model, pretrained_head


def _shapes(name: str, **arguments: Any) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in timm.create_model(name, **arguments).state_dict().items()}


def _within(key: str, info: BackboneInfo) -> bool:
    return key.startswith(tuple(name + "." for name in (*info.head, *info.remade)))


def _describe(model: nn.Module, spec: BackboneSpec) -> BackboneInfo:
    config = _pretrained_cfg(model)
    preprocessing = _preprocessing(config, spec)
    head = tuple(name for name in _as_tuple(config.get("classifier")) if _has(model, name))
    remade = tuple(name for name in _as_tuple(config.get("first_conv")) if _has(model, name)) if spec.in_chans != 3 else ()
    return BackboneInfo(spec, preprocessing, head, remade)


def _preprocessing(config: dict[str, Any], spec: BackboneSpec) -> Preprocessing:
    how = config["interpolation"]
    return Preprocessing(
        image_size=spec.image_size or int(config["input_size"][-1]),
        mean=per_channel(config["mean"], spec.in_chans),
        std=per_channel(config["std"], spec.in_chans),
        interpolation=how if how != "random" else "bilinear",
        crop_pct=float(config["crop_pct"]),
    )


def info_of_own(model: nn.Module, num_classes: int, in_chans: int, image_size: int) -> BackboneInfo | None:
    """What is known of a model that timm built without us, by its own words; ``None`` for a module from elsewhere.

    Which weights it started from is not known: the fingerprint is empty.
    """
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(name, str) or not timm.is_model(name):
        return None
    tag = f".{config['tag']}" if config.get("tag") else ""
    return _describe(model, BackboneSpec("timm", name + tag, num_classes, in_chans=in_chans, image_size=image_size))


def _pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    return model.pretrained_cfg  # type: ignore[return-value]


def _fresh_heads(model: nn.Module, names: tuple[str, ...]) -> None:
    """torch's own initialisation for a head that is not pretrained, as ``reset_classifier`` gives it.

    Some of timm's constructors start heads so wide for a few classes (EfficientNet: ± 1/√classes) that the first steps wreck the features.
    """
    for name in names:
        head = model.get_submodule(name)
        if isinstance(head, nn.Linear | nn.Conv2d):
            head.reset_parameters()


def _as_tuple(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True

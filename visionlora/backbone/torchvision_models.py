"""Backbones from torchvision."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from visionlora.backbone.info import BackboneInfo, BackboneSpec, Preprocessing, per_channel
from visionlora.backbone.modules import replace_module, with_channels
from visionlora.backbone.placed import torchvision_models as placed
from visionlora.backbone.weights import hub_access, read_weights
from visionlora.common.compat import versioned
from visionlora.common.errors import UserError, did_you_mean

_CLASSES = 1000
_AUXILIARY = ("googlenet", "inception_v3")


def names() -> list[str]:
    """Every image classifier of torchvision."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build(spec: BackboneSpec, load: bool) -> tuple[nn.Module, BackboneInfo]:
    """Build ``spec`` with torchvision's own head, load its weights if ``load``, then exchange the head and, if need be, the first conv."""
    if placed.kind_of_model(spec.name) is not None:
        return placed.build(spec, load)
    if spec.name not in names():
        raise UserError(f"model.name={spec.name}: torchvision has no such classifier.{did_you_mean(spec.name, names())}")
    published = torchvision.models.get_model_weights(spec.name).DEFAULT
    transforms = published.transforms()
    own_size = int(transforms.crop_size[0])
    size = spec.image_size or own_size
    model = _create(spec, size, load)
    head = find_head(model)
    pretrained_head = _load(model, spec, published, head) if load else False
    remade: tuple[str, ...] = ()
    if spec.in_chans != 3:
        remade = (_first_conv(model),)
        _adapt_first_conv(model, remade[0], spec.in_chans)
    if not (pretrained_head and spec.num_classes == _CLASSES):
        replace_module(model, head, _new_head(model.get_submodule(head), spec.num_classes))
    preprocessing = Preprocessing(
        image_size=size,
        mean=per_channel(transforms.mean, spec.in_chans),
        std=per_channel(transforms.std, spec.in_chans),
        interpolation=transforms.interpolation.value,
        crop_pct=own_size / transforms.resize_size[0],
    )
    resized = ("encoder.pos_embedding",) if isinstance(model, VisionTransformer) and size != own_size else ()
    return model, BackboneInfo(spec, preprocessing, (head,), remade, resized)


def _create(spec: BackboneSpec, size: int, load: bool) -> nn.Module:
    arguments = auxiliary_arguments(spec, init_weights=not load)
    if spec.drop_rate:
        arguments["dropout"] = spec.drop_rate
    if spec.drop_path_rate:
        arguments["stochastic_depth_prob"] = spec.drop_path_rate
    arguments |= size_argument(spec.name, size)
    try:
        return torchvision.models.get_model(spec.name, weights=None, **arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise UserError(f"model.name={spec.name} does not take these arguments ({', '.join(arguments)}): {error}") from None


def auxiliary_arguments(spec: BackboneSpec, init_weights: bool = False) -> dict[str, Any]:
    """What the constructors of GoogLeNet and Inception have to be told: no classifiers in the middle, and how images come."""
    if spec.name not in _AUXILIARY:
        return {}
    # Their weights came from TensorFlow, with another normalisation that the model itself undoes.
    return {"aux_logits": False, "init_weights": init_weights, "transform_input": spec.pretrained and spec.in_chans == 3}


def size_argument(name: str, size: int) -> dict[str, Any]:
    """What a constructor has to be told of the size of the images."""
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name.startswith("maxvit") else {}


def find_head(model: nn.Module) -> str:
    """Name of the last linear or conv layer with torchvision's thousand outputs."""
    sizes = {name: getattr(m, "out_features", getattr(m, "out_channels", None)) for name, m in model.named_modules()}
    heads = [name for name, size in sizes.items() if size == _CLASSES and isinstance(model.get_submodule(name), nn.Linear | nn.Conv2d)]
    if not heads:
        raise UserError(f"cannot find the classifier of {type(model).__name__}.")
    return str(heads[-1])


def _load(model: nn.Module, spec: BackboneSpec, published: Any, head: str) -> bool:
    """Load the weights ``spec`` names; returns whether the head was among them."""
    state: dict[str, Tensor]
    if spec.weights is not None:
        state = read_weights(spec.weights, model.state_dict())
    else:
        with hub_access(f"torchvision's {spec.name}"):
            state = published.get_state_dict(progress=False, check_hash=True)
    own = model.state_dict()
    fits = all(key in state and state[key].shape == own[key].shape for key in own if key.startswith(head + "."))
    dropped = ("aux1.", "aux2.", "AuxLogits.", *(() if fits else (head + ".",)))
    state = {key: value for key, value in state.items() if not key.startswith(dropped)}
    if isinstance(model, VisionTransformer):
        state = dict(interpolate_embeddings(model.image_size, model.patch_size, state))
    try:
        result = model.load_state_dict(versioned(model, state), strict=False)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"model.weights={spec.weights} does not fit {spec.full_name}: {' '.join(str(error).split())[:200]}") from None
    wrong = [key for key in (*result.missing_keys, *result.unexpected_keys) if not key.startswith(head + ".")]
    if wrong:
        raise UserError(f"model.weights={spec.weights} does not fit {spec.full_name}: {len(wrong)} keys differ, {wrong[0]} first.")
    return fits


def _first_conv(model: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


@torch.no_grad()
def _adapt_first_conv(model: nn.Module, name: str, in_chans: int) -> None:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    new = with_channels(conv, in_chans)
    new.weight.copy_(adapt_input_conv(in_chans, conv.weight))
    if conv.bias is not None and new.bias is not None:
        new.bias.copy_(conv.bias)
    replace_module(model, name, new)


def _new_head(old: nn.Module, num_classes: int) -> nn.Module:
    if isinstance(old, nn.Conv2d):  # SqueezeNet
        return nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    assert isinstance(old, nn.Linear)
    return nn.Linear(old.in_features, num_classes, bias=old.bias is not None)  # MaxViT's has none

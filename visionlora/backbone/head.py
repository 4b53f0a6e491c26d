"""The classifier of a model, and an example of its input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from visionlora.backbone.info import info_of
from visionlora.common.errors import UserError
from visionlora.lora.audit import undisturbed


def find_head(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's modules: as ``create_backbone`` knows them, else by timm's own word, else the last linear layer."""
    if info := info_of(model):
        return info.head
    config = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    aux = tuple(name + "." for name in auxiliary_heads(model))
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear and not (aux and name.startswith(aux))]
    if not linears:
        raise UserError(f"cannot find the classifier of {type(model).__name__}: it has no linear layer.")
    return (linears[-1],)


def count_outputs(model: nn.Module) -> int:
    """How many outputs an image gets: as many as the head gives, and where it does not say so, as ``model`` gives for an example."""
    module = dict(model.named_modules()).get(find_head(model)[-1])
    for name in ("out_features", "out_channels"):
        if isinstance(known := getattr(module, name, None), int):
            return known
    with undisturbed(model), torch.no_grad():
        logits = model(example_batch(model))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError(f"cannot tell how many classes {type(model).__name__} has: its output is not (N, classes); give num_classes.")
    return logits.shape[1]


def auxiliary_heads(model: nn.Module) -> tuple[str, ...]:
    """Names of classifiers that only training uses (GoogLeNet, Inception): neither adapted nor trained."""
    return tuple(name for name, module in model.named_modules() if "InceptionAux" in type(module).__name__)


def head_like(old: nn.Module, num_classes: int | None) -> nn.Module:
    """A copy of a head, or a fresh one where the number of classes differs."""
    new = copy.deepcopy(old)
    if num_classes is not None and isinstance(new, nn.Linear) and new.out_features != num_classes:
        new = nn.Linear(new.in_features, num_classes, new.bias is not None)
    elif num_classes is not None and isinstance(new, nn.Conv2d) and new.out_channels != num_classes:  # SqueezeNet
        new = nn.Conv2d(new.in_channels, num_classes, new.kernel_size, new.stride, new.padding, bias=new.bias is not None)  # type: ignore[arg-type]
    like = next(old.parameters())
    return new.to(like.device, like.dtype).train(old.training)


def example_batch(model: nn.Module, image_size: int | None = None) -> Tensor:
    """Noise ``(2, C, H, W)`` of the backbone's own input size, the same each time."""
    info = info_of(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = (info.preprocessing.channels, info.preprocessing.image_size) if info else config.get("input_size", (3, 224))
    side = image_size or size[-1]
    parameter = next(model.parameters())
    noise = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device, parameter.dtype)

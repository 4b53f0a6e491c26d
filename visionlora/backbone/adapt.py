"""``vl.inject``: LoRA on a model whose head and input we know or can find out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from visionlora import lora
from visionlora.backbone.freeze import freeze_statistics, unfreeze_statistics
from visionlora.backbone.info import info_of
from visionlora.backbone.roles import Roles
from visionlora.errors import UserError
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.injection import InjectReport, count_parameters


def inject(
    model: nn.Module,
    config: LoraConfig,
    example: Tensor | None = None,
    *,
    freeze_bn: bool = True,
    name: str = "default",
    ranks: Mapping[str, LayerRank] | None = None,
) -> InjectReport:
    """Make a classifier ready for training, in place: adapters as ``config`` says, head trainable, all else frozen.

    Args:
        model: from ``create_backbone``, timm, torchvision or anywhere; its output does not change.
        config: see ``LoraConfig``; methods ``none`` and ``full`` add no adapter and train the head, or everything.
        example: a batch ``(N, C, H, W)`` for the audit; by default one of the backbone's own input size.
        freeze_bn: keep batch-norm's running statistics, also in train mode.
        name: name of the adapter.
        ranks: exact layer names with their ranks, as ``allocate`` gives them, instead of ``config.targets``.

    Raises:
        UserError: see ``lora.inject``; the model is then as it was.
    """
    info = info_of(model)
    head = find_head(model)
    remade = info.remade if info else ()
    if config.method not in ("none", "full"):
        if example is None:
            example = example_batch(model)
        roles = Roles(model, (*head, *remade))
        never = auxiliary_heads(model)
        report = lora.inject(model, config, head=head, also_train=remade, never=never, example=example, ranks=ranks, roles=roles, name=name)
    else:
        model.requires_grad_(config.method == "full")
        for module in (*head, *remade):
            model.get_submodule(module).requires_grad_(True)
        report = InjectReport([], *count_parameters(model))
    if freeze_bn:
        freeze_statistics(model)
    return report


def merge(model: nn.Module, keep: bool = True) -> nn.Module:
    """Write the effective weights into the plain layers, in place.

    Args:
        model: after ``inject``.
        keep: keep what ``unmerge`` needs aside; ``False`` for export: every module is then of the library's own class.
    """
    lora.merge(model, keep)
    if not keep:
        unfreeze_statistics(model)
    return model


def example_batch(model: nn.Module, image_size: int | None = None) -> Tensor:
    """Noise ``(2, C, H, W)`` of the backbone's own input size, the same each time."""
    info = info_of(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = (info.preprocessing.channels, info.preprocessing.image_size) if info else config.get("input_size", (3, 224))
    side = image_size or size[-1]
    parameter = next(model.parameters())
    noise = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device, parameter.dtype)


def auxiliary_heads(model: nn.Module) -> tuple[str, ...]:
    """Names of classifiers that only training uses (GoogLeNet, Inception): neither adapted nor trained."""
    return tuple(name for name, module in model.named_modules() if "InceptionAux" in type(module).__name__)


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

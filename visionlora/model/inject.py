"""``vl.inject`` and ``vl.merge``: LoRA on a model whose head, roles and input we know or can find out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from visionlora import lora
from visionlora.backbone.freeze import freeze_statistics, unfreeze_statistics
from visionlora.backbone.head import auxiliary_heads, example_batch, find_head
from visionlora.backbone.info import ATTRIBUTE, info_of
from visionlora.backbone.roles import Roles
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.inject_report import InjectReport
from visionlora.lora.injection import count_parameters, unfreeze
from visionlora.model.adapters import new_adapter
from visionlora.model.layout import asked
from visionlora.speed.folding import unfold


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

    A model may have several adapters, each with a head of its own; the new one is then the active one, see ``activate``.

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
    info, head = info_of(model), find_head(model)
    remade = info.remade if info else ()
    never = auxiliary_heads(model)
    if config.method == "full":
        model.requires_grad_(True)
        report = InjectReport([], *count_parameters(model))
    elif config.method == "none":
        model.requires_grad_(False)
        unfreeze(model, config, head, remade, never)
        report = InjectReport([], *count_parameters(model))
    else:
        if example is None:
            example = example_batch(model)
        roles = Roles(model, (*head, *remade))
        with new_adapter(model, name):
            report = lora.inject(
                model, config, head=head, also_train=remade, never=never, example=example, ranks=ranks, roles=roles, name=name
            )
    if freeze_bn:
        freeze_statistics(model, head)
    asked(model, config)  # for a Classifier that is not told
    return report


def merge(model: nn.Module, keep: bool = True) -> nn.Module:
    """Write the effective weights into the plain layers, in place.

    Args:
        model: after ``inject``.
        keep: keep what ``unmerge`` needs aside; ``False`` for export: every module is then of the library's own class.
    """
    unfold(model)
    lora.merge(model, keep)
    if not keep:
        unfreeze_statistics(model)
        if info := info_of(model):
            setattr(model, ATTRIBUTE, replace(info, fingerprint="of merged weights"))  # no adapter fits it any more
    return model

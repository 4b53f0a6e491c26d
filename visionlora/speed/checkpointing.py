"""Gradient checkpointing: less is held and more computed again in the backward pass, either whole blocks or only what is cheap."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.activations import GELU, GELUTanh
from torch import nn
from torch.utils.checkpoint import checkpoint

from visionlora.backbone.roles import blocks_of
from visionlora.common.errors import UserError
from visionlora.common.swap import Swapped, swap
from visionlora.lora.kernel_layers import KernelLayer
from visionlora.lora.kernels.recompute import Recomputed


class Checkpointed(Swapped):
    """A mixin for a module whose activations are, in training, computed again in the backward pass, with the same dropout."""

    prefix = "Checkpointed"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)
        return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)


CHEAP_TO_RECOMPUTE = (nn.GELU, nn.SiLU, nn.LayerNorm, GELU, GELUTanh)
"""Activations and norms that hold their input for their own gradient, and are cheap beside the layer after them."""


def checkpoint_activations(model: nn.Module) -> None:
    """Hold no outputs of activations and norms for adapted layers, and no formed weights: ``model.checkpointing=light``.

    They are computed again in the backward pass, for a few per cent of the time (``docs/speed.md``, row "light").

    Args:
        model: after ``fold``, which would undo this; it is changed in place.
    """
    for module in model.modules():
        if isinstance(module, KernelLayer):
            module.compute().recompute = True
        elif isinstance(module, CHEAP_TO_RECOMPUTE) and not isinstance(module, Swapped) and not getattr(module, "inplace", False):
            swap(module, Recomputed)


def checkpoint_blocks(model: nn.Module) -> None:
    """Checkpoint a model block by block: timm's own way where the model has it, else its blocks as the role ``last:N`` counts them.

    Raises:
        UserError: the model has no blocks that could be told apart.
    """
    own = getattr(model, "set_grad_checkpointing", None)
    if own is not None:
        try:
            own(True)
            return
        except (AssertionError, NotImplementedError):
            pass
    blocks = [model.get_submodule(name) for name in blocks_of(model)]
    if not blocks:
        raise UserError("model.checkpointing=blocks: this model has no blocks that could be told apart.")
    for block in blocks:
        if not isinstance(block, Swapped):
            swap(block, Checkpointed)

"""Gradient checkpointing: hold the inputs of blocks, compute what is inside again in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from visionlora.backbone.roles import blocks_of
from visionlora.errors import UserError
from visionlora.swap import Swapped, swap


class Checkpointed(Swapped):
    """Mixin: in training, the module's activations are computed again in the backward pass, with the same dropout."""

    prefix = "Checkpointed"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)
        return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)


def checkpoint_blocks(model: nn.Module) -> int:
    """Checkpoint a model block by block: timm's own way where the model has it, else its blocks as the role ``last:N`` counts them.

    Returns:
        How many blocks; -1 where the library does it.

    Raises:
        UserError: the model has no blocks that could be told apart.
    """
    own = getattr(model, "set_grad_checkpointing", None)
    if own is not None:
        try:
            own(True)
            return -1
        except (AssertionError, NotImplementedError):
            pass
    blocks = [model.get_submodule(name) for name in blocks_of(model)]
    if not blocks:
        raise UserError("model.checkpointing=true: this model has no blocks that could be told apart.")
    for block in blocks:
        if not isinstance(block, Swapped):
            swap(block, Checkpointed)
    return len(blocks)

"""What is cheap to compute again is not held: outputs of activations and norms that only a layer's gradient needs."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from visionlora.swap import Swapped

MADE_BY = "_made_by"
"""Attribute of a tensor: how it was made."""


class Recipe(NamedTuple):
    """A tensor as the output of ``module`` for ``source``, which the module holds for its own backward pass anyway."""

    module: nn.Module
    source: Tensor

    def __call__(self) -> Tensor:
        """The tensor again."""
        with torch.no_grad():
            base: Any = cast(Cheap, self.module).base_class
            return base.forward(self.module, self.source)  # type: ignore[no-any-return]


class Cheap(Swapped):
    """Mixin: an activation or norm that leaves a note with its output on how to make it again."""

    prefix = "Cheap"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        if torch.is_grad_enabled() and y.requires_grad and not torch.compiler.is_compiling():
            setattr(y, MADE_BY, (Recipe(self, x.detach()), y._version))
        return y


def recipe_of(x: Tensor) -> Recipe | None:
    """The note, where there is one and ``x`` has not been changed in place since."""
    recipe, version = getattr(x, MADE_BY, (None, -1))
    return recipe if recipe is not None and version == x._version else None

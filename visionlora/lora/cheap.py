"""What is cheap to compute again is not held: outputs of activations and norms that only a layer's gradient needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from visionlora.common.compat import changes
from visionlora.common.swap import Swapped

MADE_BY = "_made_by"
"""Attribute of a tensor: how it was made."""


class Maker(NamedTuple):
    """A module, and the dtype of the autocast it ran in: a backward pass has none."""

    module: nn.Module
    autocast: torch.dtype | None

    def __call__(self, source: Tensor) -> Tensor:
        """Its output for ``source`` again."""
        base: Any = cast(Cheap, self.module).base_class
        on = self.autocast is not None
        with torch.no_grad(), torch.autocast(source.device.type, self.autocast, enabled=on, cache_enabled=False):
            return base.forward(self.module, source)  # type: ignore[no-any-return]


class Recipe(NamedTuple):
    """How a tensor was made: ``maker(source)``, of a source that is held for the maker's own backward pass anyway."""

    maker: Maker | Callable[[Tensor], Tensor]
    source: Tensor


class Cheap(Swapped):
    """Mixin: an activation or norm that leaves a note with its output on how to make it again."""

    prefix = "Cheap"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        if torch.is_grad_enabled() and y.requires_grad and not torch.compiler.is_compiling():
            kind = x.device.type
            maker = Maker(self, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None)
            setattr(y, MADE_BY, (Recipe(maker, x.detach()), changes(y)))
        return y


def recipe_of(x: Tensor) -> Recipe | None:
    """The note, where there is one and ``x`` has not been changed in place since."""
    recipe, version = getattr(x, MADE_BY, (None, -1))
    return recipe if recipe is not None and version == changes(x) else None

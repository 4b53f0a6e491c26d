"""Outputs of activations and norms that only a layer's gradient needs are not held: they are cheap to compute again.

A module swapped to ``Recomputed`` leaves a note with its output on how it was made, the ``Recipe``. The layer that takes this output as
its input then holds the source that the recipe names, which the activation or norm holds for its own gradient anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from visionlora.common.compat import changes
from visionlora.common.swap import Swapped

MADE_BY = "_made_by"
"""The attribute of a tensor that says how it was made."""


class Maker(NamedTuple):
    """Computes the output of a module again.

    Args:
        module: of class ``Recomputed``.
        autocast: the dtype of the autocast it ran in, which a backward pass does not have; ``None`` without one.
    """

    module: nn.Module
    autocast: torch.dtype | None

    def __call__(self, source: Tensor) -> Tensor:
        """The output for the input ``source``, without a graph."""
        base: Any = cast(Recomputed, self.module).base_class
        on = self.autocast is not None
        with torch.no_grad(), torch.autocast(source.device.type, self.autocast, enabled=on, cache_enabled=False):
            return base.forward(self.module, source)  # type: ignore[no-any-return]


class Recipe(NamedTuple):
    """How a tensor was made: it is ``maker(source)``, and ``source`` is held for the maker's own backward pass anyway."""

    maker: Maker | Callable[[Tensor], Tensor]
    source: Tensor


class Recomputed(Swapped):
    """A mixin for an activation or norm that leaves a note with its output on how to make it again."""

    prefix = "Recomputed"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        if torch.is_grad_enabled() and y.requires_grad and not torch.compiler.is_compiling():
            kind = x.device.type
            maker = Maker(self, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None)
            setattr(y, MADE_BY, (Recipe(maker, x.detach()), changes(y)))
        return y


def recipe_of(x: Tensor) -> Recipe | None:
    """How ``x`` was made, where it has a note and has not been changed in place since."""
    recipe, version = getattr(x, MADE_BY, (None, -1))
    return recipe if recipe is not None and version == changes(x) else None

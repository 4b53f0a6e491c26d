"""A batch-norm that the conv before it computes."""

from __future__ import annotations

from typing import cast

from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from visionlora.backbone.freeze import FrozenStatistics
from visionlora.common.swap import restore, swap
from visionlora.lora.kernels.copies import Fold


class FoldedNorm(FrozenStatistics):
    """A mixin for a batch-norm that the conv before it computes: dropout and activation are left to it, where the norm has them."""

    prefix = "Folded"
    fold: Fold

    def forward(self, x: Tensor) -> Tensor:
        if not self.fold.active or x.ndim != 4:
            return cast(Tensor, super().forward(x))
        if isinstance(self, BatchNormAct2d):
            return cast(Tensor, self.act(self.drop(x)))
        return x


FOLDABLE: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, BatchNormAct2d)
"""The classes of norms that fold; a subclass of them may do something else, and does not."""


def fold_norm(norm: nn.Module, fold: Fold) -> None:
    """Let the conv that has this ``fold`` compute ``norm``, whose statistics are frozen."""
    if isinstance(norm, FrozenStatistics):
        restore(norm)
    swap(norm, FoldedNorm)
    norm.__dict__["fold"] = fold


def unfold_norm(norm: nn.Module) -> None:
    """Undo ``fold_norm``."""
    if isinstance(norm, FoldedNorm):
        del norm.__dict__["fold"]
        restore(norm)
        swap(norm, FrozenStatistics)

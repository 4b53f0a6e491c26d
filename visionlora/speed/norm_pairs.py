"""Which norm follows which conv: found by watching the data flow of one forward pass, not by names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from visionlora.backbone.freeze import FrozenStatistics
from visionlora.common.watching import watching
from visionlora.lora.audit import undisturbed
from visionlora.lora.kernel_table import takes_copies
from visionlora.lora.kernels.conv import zero_padded
from visionlora.lora.kernels.copies import Fold
from visionlora.speed.folded_norm import FOLDABLE


def norms_after_convs(model: nn.Module, example: Tensor) -> dict[nn.Module, nn.Module]:
    """Find the norms that can be folded into convs.

    Args:
        model: on which hooks are set for one forward pass.
        example: a batch ``(N, C, H, W)``.

    Returns:
        Conv -> the frozen norm that its output goes to, and to nothing else, in every call of either.
    """
    watch = _Watch()

    def hooks() -> Iterator[RemovableHandle]:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and takes_copies(module) and zero_padded(module):
                yield module.register_forward_hook(watch.left_conv)
            elif isinstance(module, FrozenStatistics) and module.base_class in FOLDABLE and Fold(module).active:
                yield module.register_forward_pre_hook(watch.enters_norm)
                yield module.register_forward_hook(watch.left_norm)

    with watching(hooks()), undisturbed(model), torch.no_grad(), watch:
        model(example)
    return watch.pairs()


class _Watch(TorchFunctionMode):
    """A context that sees which operations take the output of which conv."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, nn.Module] = {}  # by identity of the output
        self.kept: list[Tensor] = []  # so that identities stay taken
        self.next: dict[nn.Module, set[nn.Module | None]] = {}
        self.previous: dict[nn.Module, set[nn.Module | None]] = {}
        self.inside = 0

    def left_conv(self, conv: nn.Module, args: Any, out: Tensor) -> None:
        self.of[id(out)] = conv
        self.kept.append(out)
        self.next.setdefault(conv, set())

    def enters_norm(self, norm: nn.Module, args: Any) -> None:
        conv = self.of.get(id(args[0]))
        self.previous.setdefault(norm, set()).add(conv)
        if conv is not None:
            self.next[conv].add(norm)
        self.inside += 1

    def left_norm(self, norm: nn.Module, args: Any, out: Any) -> None:
        self.inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            for tensor in pytree.tree_leaves((args, kwargs)):
                if id(tensor) in self.of:
                    self.next[self.of[id(tensor)]].add(None)
        return func(*args, **(kwargs or {}))

    def pairs(self) -> dict[nn.Module, nn.Module]:
        found = {}
        for conv, norms in self.next.items():
            (norm,) = norms if len(norms) == 1 else (None,)
            if norm is not None and self.previous[norm] == {conv}:
                found[conv] = norm
        return found

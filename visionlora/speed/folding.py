"""Make a model with frozen weights lean: a conv and the frozen norm after it become one conv, weights are cast once.

Which norm follows which conv is found by watching the data flow, not by names. Parameters, state-dict keys and the adapters' meaning
stay as they are; ``unfold`` gives every module its own class back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from visionlora.backbone.freeze import FrozenStatistics
from visionlora.backbone.head import example_batch
from visionlora.common.swap import Swapped, restore, swap
from visionlora.common.watching import watching
from visionlora.lora.audit import undisturbed
from visionlora.lora.cheap import Cheap
from visionlora.lora.compute import Fold, compute_dtype
from visionlora.lora.layer import COMPUTE, FAST, FastConv2d, LeanConv2d, _Conv2d, leave_kernels, make_lean, make_plain, without_kernels
from visionlora.lora.proof import Trial, trial
from visionlora.speed import attention
from visionlora.speed.attention import AttentionCallers
from visionlora.speed.strided import sample_fully, subsample


class _SamePadding(_Conv2d):
    def prepare(self, x: Tensor) -> Tensor:
        conv = cast(nn.Conv2d, self)
        x = x.to(compute_dtype(x, cast(torch.Tensor, conv._parameters["weight"])))  # first, so that what is held is no wider
        return pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))  # type: ignore[no-any-return]


class FastConv2dSame(_SamePadding, FastConv2d):
    """For timm's ``Conv2dSame``, TensorFlow's padding."""


class LeanConv2dSame(_SamePadding, LeanConv2d):
    """For timm's ``Conv2dSame``."""


FAST[Conv2dSame] = (FastConv2dSame, LeanConv2dSame)


class FoldedNorm(FrozenStatistics):
    """Mixin: a batch-norm that the conv before it computes; what is left is dropout and activation, where the norm has them."""

    prefix = "Folded"
    fold: Fold

    def forward(self, x: Tensor) -> Tensor:
        if not self.fold.active or x.ndim != 4:
            return cast(Tensor, super().forward(x))
        if isinstance(self, BatchNormAct2d):
            return cast(Tensor, self.act(self.drop(x)))
        return x


FOLDABLE: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, BatchNormAct2d)
"""Norms that fold, these very classes: a subclass may do something else."""


@dataclass(frozen=True)
class FoldReport:
    """Names of the norms that were folded, and of those that were not; ``note`` says in a sentence what was left out as it did not hold."""

    folded: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    note: str = ""


def fold(model: nn.Module, example: Tensor | None = None, *, fold_bn: bool = True) -> FoldReport:
    """Make every frozen linear and conv layer compute with copies made once, with the norms that can be folded in.

    It is tried on ``example`` first: where output or gradients are not those of the plain layers, up to rounding, norms are left alone,
    and if that does not help, kernels too.

    Args:
        model: after ``inject``; its output and gradients stay, up to rounding.
        example: a batch ``(N, C, H, W)`` to watch; by default one of the backbone's own input size.
        fold_bn: ``False`` leaves the norms alone.
    """
    unfold(model)
    example = example_batch(model) if example is None else example
    _subsample(model)
    with AttentionCallers(model) as callers, without_kernels(model):
        reference = trial(model, example)
    notes: list[str] = []
    for norms in (True, False) if fold_bn else (False,):
        report = _fold(model, example, norms)
        for module in callers.found:
            attention.lean(module)
        if not (why := _differs(model, example, reference)):
            return replace(report, note="; ".join(notes))
        unfold(model)
        _subsample(model)
        if report.folded or not norms:
            what = "folding norms into convs" if norms else "the kernels"
            notes.append(f"{what} left out, for this model computes otherwise with it ({why})")
    leave_kernels(model)
    return FoldReport(left=report.left, note="; ".join(notes))


def _subsample(model: nn.Module) -> None:
    for module in model.modules():
        if _trained(module):
            subsample(module)


def _differs(model: nn.Module, example: Tensor, reference: Trial) -> str:
    try:
        return trial(model, example).difference(reference)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the plain layers raised none, whatever the model does
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _fold(model: nn.Module, example: Tensor, fold_bn: bool) -> FoldReport:
    norms: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    pairs = norms_after_convs(model, example) if fold_bn and norms else {}
    for module in model.modules():
        if _base(module) in FAST and not _trained(module):
            norm = pairs.get(module)
            make_lean(module, None if norm is None else Fold(norm))
            if norm is not None:
                restore(cast(Swapped, norm))
                swap(norm, FoldedNorm)
                norm.__dict__["fold"] = module.__dict__[COMPUTE].fold
    folded = [norms[norm] for norm in pairs.values()]
    return FoldReport(folded, [name for name in norms.values() if name not in set(folded)])


def unfold(model: nn.Module) -> None:
    """Undo ``fold``."""
    for module in list(model.modules()):
        make_plain(module)
        attention.plain(module)
        sample_fully(module)
        if isinstance(module, Cheap):
            restore(module)
        if isinstance(module, FoldedNorm):
            del module.__dict__["fold"]
            restore(module)
            swap(module, FrozenStatistics)


def norms_after_convs(model: nn.Module, example: Tensor) -> dict[nn.Module, nn.Module]:
    """Conv -> the frozen norm that its output goes to, and to nothing else, in every call of either."""
    watch = _Watch()

    def hooks() -> Iterator[RemovableHandle]:
        for module in model.modules():
            if _base(module) in FAST and isinstance(module, nn.Conv2d) and _kernel_takes(module) and not _trained(module):
                yield module.register_forward_hook(watch.left_conv)
            elif isinstance(module, FrozenStatistics) and module.base_class in FOLDABLE and Fold(module).active:
                yield module.register_forward_pre_hook(watch.enters_norm)
                yield module.register_forward_hook(watch.left_norm)

    with watching(hooks()), undisturbed(model), torch.no_grad(), watch:
        model(example)
    return watch.pairs()


class _Watch(TorchFunctionMode):
    """Sees which operation takes which conv's output."""

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


def _base(module: nn.Module) -> type[nn.Module]:
    return module.base_class if isinstance(module, Swapped) else type(module)


def _kernel_takes(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _trained(module: nn.Module) -> bool:
    return any(p is not None and p.requires_grad for p in module._parameters.values())

"""Make a model with frozen weights faster: a conv and the frozen norm after it become one conv, and weights are cast once.

Parameters, state-dict keys and the adapters' meaning stay as they are; ``unfold`` gives every module its own class back.
What a folded conv computes with is in ``lora/kernels/copies.py``, and what its norm does then in ``folded_norm.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from visionlora.backbone.head import example_batch
from visionlora.common.swap import restore
from visionlora.lora.kernel_table import drop_copies, is_trained, leave_kernels, takes_copies, use_copies, without_kernels
from visionlora.lora.kernels.copies import Fold
from visionlora.lora.kernels.recompute import Recomputed
from visionlora.lora.proof import Trial, trial
from visionlora.speed import attention
from visionlora.speed.attention import AttentionCallers
from visionlora.speed.folded_norm import fold_norm, unfold_norm
from visionlora.speed.norm_pairs import norms_after_convs
from visionlora.speed.strided import sample_fully, subsample


@dataclass(frozen=True)
class FoldReport:
    """What ``fold`` did.

    Attributes:
        folded: names of the norms that convs compute now.
        left: names of the other batch-norms.
        note: a sentence on what was left out because it changed what the model computes, or ``""``.
    """

    folded: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    note: str = ""


def fold(model: nn.Module, example: Tensor | None = None, *, fold_bn: bool = True) -> FoldReport:
    """Let every frozen linear and conv layer compute with copies made once, with the norms that can be folded into them.

    The result is compared on ``example`` first: where output or gradients are not those of the plain layers, up to rounding, norms are
    left alone, and if that does not help, the kernels are too.

    Args:
        model: after ``inject``; it is changed in place, and its output and gradients stay the same up to rounding.
        example: a batch ``(N, C, H, W)`` to watch; by default one of the backbone's own input size.
        fold_bn: ``False`` leaves the norms alone.

    Returns:
        Which norms were folded, and what was left out.

    Raises:
        torch.OutOfMemoryError: the example does not fit into memory.
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
            attention.use_unfused(module)
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
        if is_trained(module):
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
        if takes_copies(module):
            norm = pairs.get(module)
            folded_in = None if norm is None else Fold(norm)
            use_copies(module, folded_in)
            if norm is not None and folded_in is not None:
                fold_norm(norm, folded_in)
    folded = [norms[norm] for norm in pairs.values()]
    return FoldReport(folded, [name for name in norms.values() if name not in set(folded)])


def unfold(model: nn.Module) -> None:
    """Undo ``fold``, in place; a model that is not folded stays as it is."""
    for module in list(model.modules()):
        drop_copies(module)
        attention.use_fused(module)
        sample_fully(module)
        if isinstance(module, Recomputed):
            restore(module)
        unfold_norm(module)

"""After injection: the model must compute what it computed before, and every adapter must be able to learn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from visionlora.common.errors import UserError
from visionlora.common.watching import watching
from visionlora.lora.frozen import is_quantized
from visionlora.lora.kernel_table import leave_kernels, without_kernels
from visionlora.lora.layer import lora_layers
from visionlora.lora.slots import Slot, siblings


def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    """All floating-point tensors ``model(example)`` returns, in eval mode, whatever the container."""
    return [t for t in pytree.tree_leaves(model(example)) if isinstance(t, Tensor) and t.is_floating_point()]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A context in eval mode, after which train modes, random state and ``.grad`` are as before (in eval mode buffers do not move)."""
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def audit(model: nn.Module, example: Tensor, before: list[Tensor], adapter: str) -> tuple[list[str], str]:
    """Compare with the outputs ``before`` injection and ask for a gradient of every adapter of that name.

    A model that the kernels' code breaks (one that differentiates twice, for one) does without them from then on.

    Returns:
        Names of the adapters whose gradient is zero on this batch (a note only: zero-initialised norms do that), and what was left out.

    Raises:
        UserError: the output changed, or an adapter has no gradient at all (the model does not use that weight).
    """
    try:
        return _audit(model, example, before, adapter), ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an adapter without gradient among them: the kernels are not differentiated twice
        with without_kernels(model):
            zero = _audit(model, example, before, adapter)
        leave_kernels(model)
        return zero, f"the kernels left out, for this model breaks with them ({' '.join(str(error).split())[:200]})"


def _audit(model: nn.Module, example: Tensor, before: list[Tensor], adapter: str) -> list[str]:
    witnesses = {
        ".".join(filter(None, (name, parameter, part))): each.witness()
        for name, layer in lora_layers(model)
        for parameter, adapters in layer.adapter_sets.items()
        for part, each in adapters.of(adapter).items()
    }
    with undisturbed(model), torch.enable_grad():
        after = outputs(model, example)
        for old, new in zip(before, after, strict=True):
            if not _same(old, new.detach(), 1e-4):
                raise UserError(
                    f"the audit failed: injecting LoRA changed the model's output by {(old - new).abs().max():.2g}"
                    " before any training; please report this model."
                )
        total = torch.stack([t.float().sum() for t in after]).sum()
        grads = torch.autograd.grad(total, list(witnesses.values()), allow_unused=True) if total.requires_grad else (None,) * len(witnesses)
    dead = [name for name, grad in zip(witnesses, grads, strict=True) if grad is None]
    if dead:
        raise UserError(
            f"the audit failed: the adapter of {dead[0]} would never learn, its weight has no part in the output"
            f" ({len(dead)} such layers); leave it out with lora.exclude."
        )
    return [name for name, grad in zip(witnesses, grads, strict=True) if grad is not None and not grad.any()]


@torch.no_grad()
def check_parts(model: nn.Module, parts: list[Slot], example: Tensor) -> None:
    """Make sure that the rows called q and k are just that: doubled queries and halved keys leave attention as it was.

    Rows in another order (head by head, for one) would double values as well.

    Raises:
        UserError: they are not; nothing is changed.
    """
    fused = {slot.whole: slot for slot in parts}
    if any(is_quantized(slot.raw) for slot in parts):
        raise UserError("lora.targets: q, k and v of a quantised layer cannot be told apart safely; adapt the whole layer instead.")
    modules = dict(model.named_modules())
    attention = {slot.whole: _attention_of(slot, modules) for slot in fused.values()}
    if not fused:
        return
    before = _outputs_of(model, attention, example)
    with _rescaled(fused.values(), attention):
        after = _outputs_of(model, attention, example)
    for whole, slot in fused.items():
        # Of the attention itself: a small layer scale would hide the change from the model's output.
        if not _same(before[whole], after[whole], 1e-3):
            raise UserError(
                f"lora.targets: in this model the rows of {whole} are not those of {', '.join(_rows(slot))} one after the other;"
                " adapt the whole layer instead."
            )


@contextlib.contextmanager
def _rescaled(fused: Iterable[Slot], attention: dict[str, nn.Module]) -> Iterator[None]:
    """A context in which the queries of these layers are doubled and their keys halved; what is tied is changed once."""
    changed: list[tuple[Tensor, Tensor]] = []
    done: set[int] = set()
    try:
        for slot in fused:
            factors = _factors(slot, attention[slot.whole])
            for tensor, which, factor in factors:
                if tensor is not None and id(tensor) not in done:
                    _scale(tensor, which, factor, changed)
            done |= {id(tensor) for tensor, _, _ in factors}
        yield
    finally:
        for view, original in reversed(changed):
            view.copy_(original)


def _factors(slot: Slot, parent: nn.Module) -> list[tuple[Tensor | None, slice, float]]:
    """What makes queries and keys of a fused layer: the tensors, their rows, and by what they are multiplied in the check."""
    rows, bias = _rows(slot), slot.module._parameters.get("in_proj_bias" if slot.parameter == "in_proj_weight" else "bias")
    factors: list[tuple[Tensor | None, slice, float]] = [(t, rows["k"], 0.5) for t in (slot.raw, bias)]
    if "q" in rows:
        q_bias = parent._parameters.get("q_bias")  # BEiT keeps its biases beside the layer
        factors += [(slot.raw, rows["q"], 2.0), (bias, rows["q"], 2.0), (q_bias, slice(None), 2.0)]
    elif isinstance(queries := parent._modules.get("q"), nn.Module):
        factors += [(t, slice(None), 2.0) for t in queries.parameters()]
    return factors


def _rows(part: Slot) -> dict[str, slice]:
    """Part -> its rows, of the whole that ``part`` belongs to."""
    return {sibling.part: slice(*sibling.rows) for sibling in siblings(part) if sibling.rows}


def _attention_of(slot: Slot, modules: dict[str, nn.Module]) -> nn.Module:
    return slot.module if slot.parameter == "in_proj_weight" else modules[slot.module_name.rpartition(".")[0]]


def _outputs_of(model: nn.Module, modules: dict[str, nn.Module], example: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:  # the last call counts: layers may be used twice
            found[name] = next(t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)).detach().clone()

        return hook

    with watching(module.register_forward_hook(catch(name)) for name, module in modules.items()), undisturbed(model):
        model(example)
    return found


def _scale(tensor: Tensor, rows: slice, factor: float, changed: list[tuple[Tensor, Tensor]]) -> None:
    view = tensor[rows]
    changed.append((view, view.clone()))
    view.mul_(factor)


def _same(old: Tensor, new: Tensor, tolerance: float) -> bool:
    scale = old.abs().max().clamp(min=1e-12)
    return torch.allclose(old, new, rtol=0, atol=float(tolerance * scale), equal_nan=True)

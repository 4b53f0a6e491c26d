"""A speed-up proves itself on the model at hand: outputs of the same type and value, and the same gradients, up to rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from visionlora.lora.adapter import Adapter
from visionlora.lora.audit import outputs, undisturbed

TOLERANCE = {torch.float64: 1e-8}
"""The largest difference that counts as rounding, relative to the norm of the tensor, by dtype."""
COARSE = 1e-3
"""The same for any other dtype."""


class Trial(NamedTuple):
    """What a model computed: its outputs, and the gradient of everything in it that is trained, by name."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]

    def difference(self, other: Trial) -> str:
        """Say in words what is not as in ``other``, the reference; ``""`` where all is."""
        if [(t.dtype, t.shape) for t in self.outputs] != [(t.dtype, t.shape) for t in other.outputs]:
            return "its output has another type"
        for mine, reference in zip(self.outputs, other.outputs, strict=True):
            if not gap(mine, reference) <= _tolerance(mine):
                return f"its output differs by {gap(mine, reference):.1g}"
        if missing := set(self.gradients) ^ set(other.gradients):
            return f"{min(missing)} has a gradient in one of the two only"
        largest = max((float(g.norm()) for g in other.gradients.values()), default=0.0)
        for name, reference in other.gradients.items():
            mine = self.gradients[name]
            # Of a gradient that is nothing beside the others, rounding is all there is.
            if not gap(mine, reference, 1e-3 * largest) <= 10 * _tolerance(mine):
                return f"the gradient of {name} differs by {gap(mine, reference):.1g}"
        return ""


def trial(model: nn.Module, example: Tensor) -> Trial:
    """Run ``model`` on ``example`` forward and backward, in eval mode; nothing of it is changed.

    Factors that are zero at the start are filled meanwhile: with ``B = 0`` the gradient of ``A`` would be zero whatever computed it.
    """
    exact = torch.autocast(example.device.type, enabled=False)  # the caller's would round more than what is looked for
    with undisturbed(model), _filled(model), torch.enable_grad(), exact:
        found = outputs(model, example)
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        total = torch.stack([_mixed(t) for t in found]).sum()
        grads = torch.autograd.grad(total, list(learning.values()), allow_unused=True) if total.requires_grad else ()
    return Trial([t.detach() for t in found], {name: g for name, g in zip(learning, grads, strict=False) if g is not None})


def gap(mine: Tensor, reference: Tensor, floor: float = 0.0) -> float:
    """``‖mine - reference‖`` relative to ``‖reference‖``, or to ``floor`` where that is larger; where both are not finite, they agree."""
    if not reference.isfinite().all():
        return 0.0
    return float((mine - reference).norm() / reference.norm().clamp_min(max(floor, 1e-30)))


def _mixed(t: Tensor) -> Tensor:
    """A sum in which no two entries count the same, so that softmax and norms do not cancel the gradient."""
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    return (wide * torch.linspace(-1, 1, t.numel(), dtype=wide.dtype, device=t.device).view_as(t)).sum()


def _tolerance(t: Tensor) -> float:
    return TOLERANCE.get(t.dtype, COARSE)


@contextlib.contextmanager
@torch.no_grad()
def _filled(model: nn.Module) -> Iterator[None]:
    """A context in which no factor of an adapter is zero as a whole."""
    adapters = {id(module): module for module in model.modules() if isinstance(module, Adapter)}.values()
    zero = [p for adapter in adapters for p in adapter.parameters() if not p.any()]
    noise = torch.Generator().manual_seed(0)
    for parameter in zero:
        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=noise))
    try:
        yield
    finally:
        for parameter in zero:
            parameter.zero_()

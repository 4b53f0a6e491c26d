"""Which parameters of which layers can be adapted."""

from __future__ import annotations

from torch import nn

ADAPTABLE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Conv1d: ("weight",),
    nn.Conv2d: ("weight",),
    nn.Conv3d: ("weight",),
    nn.ConvTranspose1d: ("weight",),
    nn.ConvTranspose2d: ("weight",),
    nn.ConvTranspose3d: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
"""Layers with parameters that are a matrix of outputs by inputs, subclasses included."""
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weight has its inputs first."""


def adaptable(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of ``module`` that can be adapted."""
    for cls, names in ADAPTABLE.items():
        if isinstance(module, cls):
            return tuple(name for name in names if module._parameters.get(name) is not None)
    return ()

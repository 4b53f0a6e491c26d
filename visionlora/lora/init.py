"""Where the factors start. Each function fills ``A (r, columns)`` and ``B (out, r)`` of an adapter of the matrix ``W (out, columns)``.

Where ``B A`` is not zero then, the adapter keeps the start ``B₀ A₀`` frozen beside it and its update is ``s (B A - B₀ A₀)``: the base
is never edited, and the effective weight at the start is ``W`` itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Init = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
"""A start of the factors: ``(W in float32 or float64, r, scaling) -> (A, B)``."""


def kaiming(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """``A`` Kaiming-uniform, ``B = 0``: Hu et al. 2021 (arXiv 2106.09685, §4.1) as PEFT has it."""
    a = nn.init.kaiming_uniform_(w.new_empty(r, w.shape[1]), a=math.sqrt(5))
    return a, w.new_zeros(w.shape[0], r)


def gaussian(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """``A`` normal with deviation ``1/r``, ``B = 0``: PEFT's ``gaussian``."""
    return w.new_empty(r, w.shape[1]).normal_(std=1 / r), w.new_zeros(w.shape[0], r)


def orthogonal(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """``A = Q₁ᵀ Y``, ``B = X Q₂`` with ``Q₁ Q₂ᵀ = 0``: both factors learn from the first step, though ``B A = 0``.

    ``Q₁`` and ``Q₂`` are every other row of a random orthogonal ``(r, r)``, ``X`` and ``Y`` normal with deviation 0.1: PEFT's
    ``orthogonal``. At rank 1 ``B = 0``.
    """
    q, _ = torch.linalg.qr(torch.randn(r, r, device=w.device, dtype=w.dtype))
    first, second = q[0::2], q[1::2]  # (⌈r/2⌉, r), (⌊r/2⌋, r)
    a = first.T @ w.new_empty(len(first), w.shape[1]).normal_(std=0.1)
    b = w.new_empty(w.shape[0], len(second)).normal_(std=0.1) @ second
    return a, b


def pissa(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The ``r`` largest singular triplets of ``W``, ``s B A = U_r Σ_r V_rᵀ``: PiSSA (Meng et al. 2024, arXiv 2404.02948, §3)."""
    return _triplets(w, scaling, slice(0, r))


def milora(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The ``r`` smallest singular triplets of ``W``: MiLoRA (Wang et al. 2024, arXiv 2406.09044, §3)."""
    return _triplets(w, scaling, slice(min(w.shape) - r, min(w.shape)))


def olora(w: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """``B = Q_r``, ``A = R_r`` of ``W = Q R``: OLoRA (Büyükakyüz 2024, arXiv 2406.01775, §3)."""
    q, upper = torch.linalg.qr(w)
    return upper[:r].contiguous(), q[:, :r].contiguous()


def _triplets(w: Tensor, scaling: float, which: slice) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    root = (s[which] / scaling).sqrt()
    return root[:, None] * vh[which], u[:, which] * root


INITS: dict[str, Init] = {
    "kaiming": kaiming,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "pissa": pissa,
    "milora": milora,
    "olora": olora,
}
FROM_WEIGHT = ("pissa", "milora", "olora")
"""The starts in which ``B A`` is a part of ``W``."""

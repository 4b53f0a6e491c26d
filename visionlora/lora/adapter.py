"""One low-rank update of a frozen weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import FrozenWeight
from visionlora.lora.init import FROM_WEIGHT, INITS


class Adapter(nn.Module):
    """LoRA (Hu et al. 2021, arXiv 2106.09685, §4.1): the update ``ΔW = scaling · B A`` of a weight seen as a matrix.

    Other methods are subclasses that change one of its rules. For ``groups = 1`` ``ΔW`` is PEFT's. Factors are kept in at least
    float32, whatever the frozen weight is held in.

    Args:
        shape: ``(out, columns)`` of the matrix, or of the rows the adapter is for.
        r: rank; ``lora_A`` is ``(r, columns)``, ``lora_B`` is ``(out, r)``.
        scaling: factor in front of ``B A``.
        dropout: probability with which a column of ``A`` is masked in training.
        rows: first row and the one after the last, where the adapter is for a part of the matrix.
        freeze_a: ``A`` is not trained.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    start_A: Tensor | None
    start_B: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        r: int,
        scaling: float,
        dropout: float = 0.0,
        rows: tuple[int, int] | None = None,
        *,
        freeze_a: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        out, columns = shape
        self.r, self.scaling, self.dropout, self.rows, self.freeze_a = r, scaling, dropout, rows, freeze_a
        self.lora_A = nn.Parameter(torch.empty(r, columns, device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty(out, r, device=device, dtype=dtype))
        # B₀ and A₀, where the factors start as a part of the frozen weight
        self.register_buffer("start_A", None)
        self.register_buffer("start_B", None)

    @classmethod
    def build(cls, shape: tuple[int, int], rank: LayerRank, config: LoraConfig, **more: Any) -> Self:
        """Make an adapter of that ``rank`` as ``config`` wants it; its factors are not filled yet."""
        return cls(shape, rank.r, config.scaling(rank), config.dropout, freeze_a=config.freeze_a, **more)

    @staticmethod
    def overhead(shape: tuple[int, int]) -> int:
        """How many parameters an adapter of a matrix ``shape (out, columns)`` has beside its factors."""
        return 0

    @classmethod
    def most(cls, shape: tuple[int, int]) -> int:
        """The largest rank that makes sense: at most that of the matrix, and with no more parameters than the layer has."""
        out, columns = shape
        return max(min(out, columns, (out * columns - cls.overhead(shape)) // (out + columns)), 0)

    def train_factors(self, mode: bool = True) -> None:
        """Train all parameters, ``A`` only where ``freeze_a`` was not asked for; with ``mode=False`` train none."""
        self.requires_grad_(mode)
        self.lora_A.requires_grad_(mode and not self.freeze_a)

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Fill the factors for the matrix ``weight (out, columns)``, so that the effective weight is the frozen one."""
        a, b = INITS[init](weight, self.r, self.scaling)
        self.lora_A.copy_(a)
        self.lora_B.copy_(b)
        if init in FROM_WEIGHT:
            self.start_A, self.start_B = self.lora_A.detach().clone(), self.lora_B.detach().clone()

    def up(self) -> Tensor:
        """The factor that comes after ``A``: ``scaling · B``, ``(out, r)``."""
        return self.lora_B * self.scaling

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """``U (out, r)`` and ``V (r, columns)`` with ``ΔW = U V``; in training, columns of ``V`` are masked.

        With a start, the rank is twice as large: ``U = [sB, -sB₀]``, ``V = [A; A₀]``.
        """
        u: Tensor = self.up()
        v: Tensor = self.lora_A
        if self.start_A is not None and self.start_B is not None:
            u = torch.cat([u, self.start_B * -self.scaling], dim=1)
            v = torch.cat([v, self.start_A])
        if dropout and self.training and self.dropout > 0:
            v = v * nn.functional.dropout(v.new_ones(v.shape[1]), self.dropout)  # (r, columns) * (columns,)
        return u, v

    def row_scale(self, weight: FrozenWeight) -> Tensor | None:
        """What each row of ``W + ΔW`` is multiplied by, ``(out,)``; ``None`` where the method does not scale rows."""
        return None

    def delta(self) -> Tensor:
        """The update ``ΔW`` as a matrix ``(out, columns)``, without dropout."""
        u, v = self.factors(dropout=False)
        return u @ v

    def to_lora(self) -> dict[str, Tensor]:
        """The same update as an ordinary LoRA of this scaling: ``lora_A``, ``lora_B``, and what else PEFT has a key for."""
        if self.start_A is None or self.start_B is None:
            return {"lora_A": self.lora_A.detach(), "lora_B": self.lora_B.detach()}
        return {"lora_A": torch.cat([self.lora_A, self.start_A]).detach(), "lora_B": torch.cat([self.lora_B, -self.start_B], 1).detach()}

    def witness(self) -> nn.Parameter:
        """A parameter whose gradient is not zero at the start, although ``ΔW`` is."""
        return self.lora_B

    def squared_norm(self) -> Tensor:
        """``‖A - A₀‖² + ‖B - B₀‖²``, which bounds the nuclear norm of ``ΔW``: ``2 ‖BA‖_* ≤ ‖A‖² + ‖B‖²`` (Srebro et al. 2004, §3)."""
        a: Tensor = self.lora_A
        b: Tensor = self.lora_B
        if self.start_A is not None and self.start_B is not None:
            a, b = a - self.start_A, b - self.start_B
        return a.square().sum() + b.square().sum()

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        rows = f", rows={self.rows[0]}:{self.rows[1]}" if self.rows else ""
        return f"r={self.r}, scaling={self.scaling:g}, dropout={self.dropout:g}{rows}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A checkpoint of the plain base loads after injection too: the adapter then stays as it is.
        if any(prefix + name in state_dict for name in ("lora_A", "lora_B")):
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

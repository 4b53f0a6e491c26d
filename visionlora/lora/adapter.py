"""One low-rank update, and all the updates of one frozen parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visionlora.lora.frozen import FrozenWeight

if TYPE_CHECKING:
    from visionlora.lora.methods import Method


class Adapter(nn.Module):
    """The update ``ΔW = scaling · B A`` of a weight seen as a matrix.

    A weight ``(out, in/groups, *kernel)`` is the matrix ``(out, in/groups·prod(kernel))``; for ``groups = 1`` that makes
    ``ΔW`` PEFT's. Factors are kept in at least float32, whatever the frozen weight is held in.

    Args:
        shape: ``(out, columns)`` of the matrix.
        r: rank; ``lora_A`` is ``(r, columns)``, ``lora_B`` is ``(out, r)``.
        scaling: factor in front of ``B A``.
        dropout: probability with which a column of ``A`` is masked in training.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        r: int,
        scaling: float,
        dropout: float = 0.0,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        out, columns = shape
        self.r, self.scaling, self.dropout = r, scaling, dropout
        self.lora_A = nn.Parameter(torch.empty(r, columns, device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty(out, r, device=device, dtype=dtype))

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """``U (out, r)`` and ``V (r, columns)`` with ``ΔW = U V``; in training, columns of ``V`` are masked."""
        a: Tensor = self.lora_A
        if dropout and self.training and self.dropout > 0:
            a = a * nn.functional.dropout(a.new_ones(a.shape[1]), self.dropout)  # (r, columns) * (columns,)
        return self.lora_B * self.scaling, a

    def delta(self) -> Tensor:
        """``ΔW`` as a matrix ``(out, columns)``, without dropout."""
        u, v = self.factors(dropout=False)
        return u @ v

    def parameter_count(self) -> int:
        return self.lora_A.numel() + self.lora_B.numel()

    def extra_repr(self) -> str:
        return f"r={self.r}, scaling={self.scaling:g}, dropout={self.dropout:g}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A checkpoint of the plain base loads after injection too: the adapter then stays as it is.
        if any(prefix + name in state_dict for name in ("lora_A", "lora_B")):
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class AdapterSet(nn.ModuleDict):
    """The adapters of one frozen parameter, by name, and which of them are active with which weight.

    Modules that share the parameter share this object, so that a tied weight has one update.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.active: dict[str, float] = {}

    def add(self, name: str, adapter: Adapter) -> None:
        """Add ``adapter`` under ``name`` and make it an active one."""
        self[name] = adapter
        self.active[name] = 1.0

    def drop(self, name: str) -> None:
        """Forget the adapter ``name``."""
        del self[name]
        self.active.pop(name, None)

    def active_adapters(self) -> list[tuple[Adapter, float]]:
        return [(self[name], weight) for name, weight in self.active.items()]  # type: ignore[misc]

    def factors(self, dropout: bool = True) -> tuple[Tensor, Tensor]:
        """``U, V`` of all active adapters, joined along the rank, so that ``Σ weight · ΔW = U V``."""
        pairs = [(adapter.factors(dropout), weight) for adapter, weight in self.active_adapters()]
        us = [u if weight == 1 else u * weight for (u, _), weight in pairs]
        vs = [v for (_, v), _ in pairs]
        return (us[0], vs[0]) if len(pairs) == 1 else (torch.cat(us, dim=1), torch.cat(vs, dim=0))

    def effective(self, raw: Tensor, dropout: bool = True) -> Tensor:
        """The weight the layer computes with, in the shape and dtype of ``raw``."""
        return self.method.effective(FrozenWeight(raw), self, dropout) if self.active else raw

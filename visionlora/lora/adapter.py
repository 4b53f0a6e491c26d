"""One low-rank update, and all the updates of one frozen parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
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
        """An adapter of that rank as ``config`` wants it, not filled yet."""
        return cls(shape, rank.r, config.scaling(rank), config.dropout, freeze_a=config.freeze_a, **more)

    @staticmethod
    def overhead(shape: tuple[int, int]) -> int:
        """Parameters of an adapter of that shape beside its factors."""
        return 0

    @classmethod
    def most(cls, shape: tuple[int, int]) -> int:
        """The largest rank that makes sense: that of the matrix, and no more parameters than the layer has."""
        out, columns = shape
        return max(min(out, columns, (out * columns - cls.overhead(shape)) // (out + columns)), 0)

    def train_factors(self, mode: bool = True) -> None:
        """Let the parameters be trained, ``A`` only where it is not frozen for good; or none."""
        self.requires_grad_(mode)
        self.lora_A.requires_grad_(mode and not self.freeze_a)

    @torch.no_grad()
    def reset(self, weight: Tensor, init: str = "kaiming") -> None:
        """Fill the factors for the matrix ``weight (out, columns)``; the effective weight is the frozen one then."""
        a, b = INITS[init](weight, self.r, self.scaling)
        self.lora_A.copy_(a)
        self.lora_B.copy_(b)
        if init in FROM_WEIGHT:
            self.start_A, self.start_B = self.lora_A.detach().clone(), self.lora_B.detach().clone()

    def up(self) -> Tensor:
        """``scaling · B``, ``(out, r)``: what comes after ``A``."""
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
        """``(out,)``, by which each row of ``W + ΔW`` is multiplied; ``None`` where the method does not."""
        return None

    def delta(self) -> Tensor:
        """``ΔW`` as a matrix ``(out, columns)``, without dropout."""
        u, v = self.factors(dropout=False)
        return u @ v

    def to_lora(self) -> dict[str, Tensor]:
        """The same update as an ordinary LoRA of this scaling: ``lora_A``, ``lora_B``, and what else PEFT has a key for."""
        if self.start_A is None or self.start_B is None:
            return {"lora_A": self.lora_A.detach(), "lora_B": self.lora_B.detach()}
        return {"lora_A": torch.cat([self.lora_A, self.start_A]).detach(), "lora_B": torch.cat([self.lora_B, -self.start_B], 1).detach()}

    def probe(self) -> nn.Parameter:
        """A parameter whose gradient is not zero at the start, though ``ΔW`` is."""
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


class AdapterSet(nn.ModuleDict):
    """The adapters of one frozen parameter, by name, and which of them are active with which weight.

    An adapter of the whole parameter has the key ``NAME``, one of a part of its rows ``NAME:PART``. Modules that share the
    parameter share this object, so that a tied weight has one update.

    Args:
        transposed: see ``FrozenWeight``.
    """

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.active: dict[str, float] = {}

    def add(self, key: str, adapter: Adapter) -> None:
        """Add ``adapter`` and make its name an active one; the only one, where it cannot be summed with the others."""
        self[key] = adapter
        try:
            self.activate({**self.active, _name(key): 1.0})
        except UserError:
            self.activate({_name(key): 1.0})

    def drop(self, name: str) -> None:
        """Forget the adapter ``name``, all its parts."""
        for key in [key for key in self if _name(key) == name]:
            del self[key]
        self.active.pop(name, None)

    def names(self) -> list[str]:
        """Of the adapters, each once."""
        return list(dict.fromkeys(_name(key) for key in self))

    def of(self, name: str) -> dict[str, Adapter]:
        """Part (``""`` for the whole) -> adapter, of the adapter of that name."""
        return {key.partition(":")[2]: cast(Adapter, adapter) for key, adapter in self.items() if _name(key) == name}

    def active_adapters(self) -> Iterator[tuple[Adapter, float]]:
        for key, adapter in self.items():
            if _name(key) in self.active:
                yield cast(Adapter, adapter), self.active[_name(key)]

    def activate(self, weights: Mapping[str, float]) -> None:
        """Let these adapters, and no others, have part in the effective weight, each times its weight.

        Raises:
            UserError: an adapter that scales rows (DoRA) cannot be summed with others; nothing is changed then.
        """
        known = {name: float(weight) for name, weight in weights.items() if name in self.names()}
        scaling = [name for name in known if any(type(a).row_scale is not Adapter.row_scale for a in self.of(name).values())]
        if scaling and (len(known) > 1 or known[scaling[0]] != 1):
            raise UserError(f"the adapter {scaling[0]!r} is a DoRA: it is not a sum with the weight, so it takes no weight and no company.")
        self.active = known

    def covered(self) -> list[tuple[int, int]] | None:
        """Row ranges that the active adapters change; ``None`` for all rows."""
        ranges = [adapter.rows for adapter, _ in self.active_adapters()]
        return None if None in ranges else cast("list[tuple[int, int]]", ranges)

    def frozen(self, raw: Tensor) -> FrozenWeight:
        return FrozenWeight(raw, self.transposed)

    def factors(self, raw: Tensor, dropout: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """``U``, ``V`` and row scale of all active adapters, joined along the rank: the effective weight is ``scale ⊙ (W + U V)``."""
        us, vs, scale = [], [], None
        for adapter, weight in self.active_adapters():
            u, v = adapter.factors(dropout)
            own = adapter.row_scale(self._rows(raw, adapter)) if type(adapter).row_scale is not Adapter.row_scale else None
            if adapter.rows is not None:
                out, (first, end) = self.frozen(raw).matrix_shape[0], adapter.rows
                u = nn.functional.pad(u, (0, 0, first, out - end))
                if own is not None:
                    own = nn.functional.pad(own - 1, (first, out - end)) + 1
            if own is not None:
                scale = own if scale is None else scale * own
            us.append(u if weight == 1 else u * weight)
            vs.append(v)
        return (us[0], vs[0], scale) if len(us) == 1 else (torch.cat(us, dim=1), torch.cat(vs, dim=0), scale)

    def effective(self, raw: Tensor, dropout: bool = True) -> Tensor:
        """The weight the layer computes with, in the shape and dtype of ``raw``."""
        return self.frozen(raw).plus(*self.factors(raw, dropout)) if self.active else raw

    def _rows(self, raw: Tensor, adapter: Adapter) -> FrozenWeight:
        if adapter.rows is None:
            return self.frozen(raw)
        return FrozenWeight(self.frozen(raw).matrix()[slice(*adapter.rows)])


def _name(key: str) -> str:
    return key.partition(":")[0]

"""All the updates of one frozen parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.lora.adapter import Adapter
from visionlora.lora.frozen import FrozenWeight


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
        """Add ``adapter`` and make its name active beside the others, or alone where it cannot be summed with them."""
        self[key] = adapter
        try:
            self.activate({**self.active, _name(key): 1.0})
        except UserError:
            self.activate({_name(key): 1.0})

    def drop(self, name: str) -> None:
        """Forget the adapter ``name`` with all its parts."""
        for key in [key for key in self if _name(key) == name]:
            del self[key]
        self.active.pop(name, None)

    def names(self) -> list[str]:
        """The names of the adapters, each once."""
        return list(dict.fromkeys(_name(key) for key in self))

    def of(self, name: str) -> dict[str, Adapter]:
        """The adapter ``name`` by its parts: part (``""`` for the whole) -> adapter."""
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
        """The ranges of rows that the active adapters change; ``None`` where they change all rows."""
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

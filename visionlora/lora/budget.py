"""A budget of parameters, shared out among layers rank by rank."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from visionlora.common.errors import UserError
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.methods import METHODS
from visionlora.lora.slots import Slot
from visionlora.lora.targets import most

Gain = Callable[[int], float]
"""What the k-th rank of a layer (from 1) is worth; never more than the one before."""


def uniform(slots: Iterable[Slot], budget: float, method: str = "lora") -> dict[str, Gain]:
    """Give every layer the same rank, as far as its size allows; what is left buys one rank more for as many as it can."""
    slots = _without_twins(list(slots))
    level = 0
    while sum(_cost(slot, level + 1, method) for slot in slots) <= budget and any(most(slot, method) > level for slot in slots):
        level += 1
    return {slot.name: lambda k: 1 / k if k <= level + 1 else 0.0 for slot in slots}


def by_weight(slots: Iterable[Slot], weights: Mapping[str, float]) -> dict[str, Gain]:
    """Give every layer parameters in proportion to its weight (d'Hondt's method).

    Args:
        slots: the layers.
        weights: slot name -> weight; for *structure* it is the layer's size, for *shift* the size times the measured shift.
    """
    return {slot.name: _proportional(weights[slot.name] / rank_cost(slot)) for slot in slots}


def structure(slots: Iterable[Slot]) -> dict[str, Gain]:
    """*Structure*: give every layer the same share of its own parameters, so that the rank follows the size of its matrix."""
    slots = list(slots)
    return by_weight(slots, {slot.name: float(slot.shape[0] * slot.shape[1]) for slot in slots})


def by_spectrum(slots: Iterable[Slot], spectra: Mapping[str, Sequence[float]]) -> dict[str, Gain]:
    """*Importance*: the k-th rank is worth the square of the k-th singular value of the loss's gradient by ``ΔW``, a parameter.

    The best step of rank k down a gradient ``G`` lowers the loss by ``Σ σ_i(G)²`` over its k largest singular values (Eckart and Young).
    """
    return {slot.name: _spectral(spectra[slot.name], rank_cost(slot)) for slot in slots}


def rank_cost(slot: Slot) -> int:
    """How many parameters one rank of this slot has."""
    return sum(slot.shape)


def share_out(slots: Iterable[Slot], gains: Mapping[str, Gain], budget: float, method: str = "lora") -> dict[str, int]:
    """Ranks by slot name that spend at most ``budget``: always the next rank that is worth most; slots without one are left out.

    Raises:
        UserError: not even one rank fits.
    """
    slots = _without_twins(list(slots))
    left, ranks = budget, dict.fromkeys((slot.name for slot in slots), 0)
    heap = [(-gains[slot.name](1), i) for i, slot in enumerate(slots) if most(slot, method) > 0]
    heapq.heapify(heap)
    while heap:
        _, i = heapq.heappop(heap)
        slot = slots[i]
        cost = _cost(slot, ranks[slot.name] + 1, method) - _cost(slot, ranks[slot.name], method)
        if cost > left or gains[slot.name](ranks[slot.name] + 1) <= 0:
            continue  # a smaller layer may still fit
        left -= cost
        ranks[slot.name] += 1
        if ranks[slot.name] < most(slot, method):
            heapq.heappush(heap, (-gains[slot.name](ranks[slot.name] + 1), i))
    if not any(ranks.values()):
        cheapest = min((_cost(slot, 1, method) for slot in slots if most(slot, method)), default=0)
        raise UserError(f"lora.budget: {budget:,.0f} parameters do not pay for a single rank; the smallest costs {cheapest:,}.")
    return {name: r for name, r in ranks.items() if r}


def _cost(slot: Slot, r: int, method: str) -> int:
    """How many parameters an adapter of rank ``r`` has, or one of the highest rank that the slot allows."""
    r = min(r, most(slot, method))
    return r * rank_cost(slot) + (METHODS[method].overhead(slot.shape) if r else 0)


def as_ranks(ranks: Mapping[str, int], config: LoraConfig) -> dict[str, LayerRank]:
    """Each layer's rank with the alpha that gives every layer the scaling of ``config``."""
    scaling = config.scaling(LayerRank(config.r, float(2 * config.r if config.alpha is None else config.alpha)))
    return {name: LayerRank(r, scaling * (r**0.5 if config.use_rslora else r), explicit=True) for name, r in ranks.items()}


def _proportional(weight: float) -> Gain:
    return lambda k: weight / k


def _spectral(spectrum: Sequence[float], cost: int) -> Gain:
    return lambda k: spectrum[k - 1] ** 2 / cost if k <= len(spectrum) else 0.0


def _without_twins(slots: Sequence[Slot]) -> list[Slot]:
    """One slot of those that share a weight; injection adapts the others with it."""
    return list({(id(slot.raw), slot.part): slot for slot in reversed(slots)}.values())[::-1]

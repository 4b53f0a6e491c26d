"""From patterns to the slots that get an adapter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from visionlora.common.errors import UserError, did_you_mean
from visionlora.lora.adapter import Adapter
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.methods import METHODS
from visionlora.lora.slots import Slot, parts_of, refuse, slots

Roles = Callable[[str], Collection[str] | None]
"""From a pattern to the modules it names by their role, or ``None`` where it is not a role. Knowing roles is ``backbone/``'s business."""

ROLES = ("auto", "all", "attn", "mlp", "conv", "linear", "stem", "stage1", "stage3+", "last:2")
"""The roles that are suggested for a pattern that matches nothing."""


@dataclass(frozen=True)
class Target:
    """A slot that was chosen, with the rank it gets, at most what ``most`` allows, and the rank that was asked for."""

    slot: Slot
    rank: LayerRank
    asked: int

    @property
    def capped(self) -> bool:
        return self.rank.r < self.asked


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` names the layer: its whole name, its last parts, or a block it is in, with globs; or as a regex after ``re:``."""
    if pattern.startswith("re:"):
        return _regex(pattern).fullmatch(name) is not None
    return any(fnmatch.fnmatchcase(f".{name}.", glob) for glob in (f".{pattern}.", f"*.{pattern}.", f".{pattern}.*", f"*.{pattern}.*"))


def most(slot: Slot, method: str = "lora") -> int:
    """The largest rank that makes sense for the slot (``Adapter.most``)."""
    kind: type[Adapter] = METHODS[method]
    return kind.most(slot.shape)


def select(model: nn.Module, config: LoraConfig, head: Iterable[str] = (), roles: Roles = lambda pattern: None) -> list[Target]:
    """The slots ``config.targets`` chooses, in the model's order, each with its rank; one that is left out has rank 0.

    Args:
        model: any module.
        config: patterns and ranks.
        head: names of modules that are never chosen, nor what is under them.
        roles: what stands for a role rather than a name.

    Raises:
        UserError: a pattern matches nothing, a rank named for one layer cannot be had, or a layer cannot be adapted.
    """
    known = candidates(model, head)
    chosen: dict[str, LayerRank] = {}
    for pattern, rank in config.patterns().items():
        names = _chosen_by(pattern, known, roles, "lora.targets")
        if not names:
            last_parts = {part for name in known for part in name.split(".") if not part.isdigit()}
            wholes = [name for name, slot in known.items() if not slot.part]
            raise UserError(
                f"lora.targets: the pattern {pattern!r} matches no linear or conv layer of the model (the head excluded)."
                f"{did_you_mean(pattern, {*known, *last_parts, *ROLES})} Layers are named like {', '.join(wholes[:3])}."
            )
        # A rank is a demand only where it is for this one layer; one for many is capped where a layer is small.
        given = LayerRank(rank.r, rank.alpha, rank.explicit and len(names) == 1)
        for name in names:
            _choose(known, chosen, name, given)
    for pattern in config.exclude:
        _leave_out(pattern, known, chosen, roles)
    _add_sharers(model, known, chosen)
    if not chosen:
        raise UserError("lora.exclude leaves no layer to adapt; lora=none trains the head alone.")
    return [_target(known[name], chosen[name], config) for name in known if name in chosen]


def exactly(model: nn.Module, ranks: Mapping[str, LayerRank]) -> list[Target]:
    """The slots named in ``ranks`` with just these ranks, whatever ``config.targets`` says: for reading an adapter back.

    Raises:
        UserError: the model has no such layer, or it cannot be adapted.
    """
    known = slots(model)
    for name in ranks:
        if name not in known:
            raise UserError(f"the adapter is for another model: this one has no linear or conv layer {name!r}.{did_you_mean(name, known)}")
        refuse(known[name])
    return [Target(known[name], rank, rank.r) for name, rank in ranks.items()]


def candidates(model: nn.Module, head: Iterable[str] = ()) -> dict[str, Slot]:
    """Every slot that is not in ``head``, by name."""
    below = tuple(h + "." for h in head)
    return {name: slot for name, slot in slots(model).items() if not f"{slot.module_name}.".startswith(below)} if below else slots(model)


def _chosen_by(pattern: str, known: Mapping[str, Slot], roles: Roles, key: str) -> list[str]:
    try:
        return _names_of(pattern, known, roles)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _names_of(pattern: str, known: Mapping[str, Slot], roles: Roles) -> list[str]:
    wholes = {name: slot for name, slot in known.items() if not slot.part}
    if pattern == "all":
        return list(wholes)
    if pattern == "auto":
        return [name for name, slot in wholes.items() if not slot.is_depthwise]
    modules = roles(pattern)
    if modules is not None:
        return [name for name, slot in wholes.items() if slot.module_name in modules]
    # A part is meant only by a pattern that does not name the whole.
    return [name for name, slot in known.items() if matches(name, pattern) and not (slot.part and matches(slot.whole, pattern))]


def _choose(known: dict[str, Slot], chosen: dict[str, LayerRank], name: str, rank: LayerRank) -> None:
    """Choose a slot. Later choices win: a part takes its rows from a whole that was chosen before, a whole takes all rows."""
    slot = known[name]
    if slot.part:
        _split(known, chosen, slot.whole)
    else:
        for part in parts_of(slot, known):
            chosen.pop(part.name, None)
    chosen[name] = rank


def _split(known: dict[str, Slot], chosen: dict[str, LayerRank], whole: str) -> None:
    if whole in chosen:
        rank = chosen.pop(whole)
        chosen |= {part.name: rank for part in parts_of(known[whole], known)}


def _leave_out(pattern: str, known: dict[str, Slot], chosen: dict[str, LayerRank], roles: Roles) -> None:
    names = _chosen_by(pattern, known, roles, "lora.exclude")
    if not names:
        raise UserError(f"lora.exclude: the pattern {pattern!r} matches no layer.{did_you_mean(pattern, known)}")
    for name in names:
        if known[name].part:
            _split(known, chosen, known[name].whole)
        for each in (name, *(part.name for part in parts_of(known[name], known))):
            chosen.pop(each, None)


def _add_sharers(model: nn.Module, known: Mapping[str, Slot], chosen: dict[str, LayerRank]) -> None:
    """Choose each layer that shares its weight with a chosen one, because merging writes the weight once, for both."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for parameter, value in module._parameters.items():
            if value is not None:
                owners.setdefault(id(value), []).append((name, parameter))
    for name in list(chosen):
        slot = known[name]
        if slot.obstacle or name not in chosen:
            continue
        for module_name, parameter in owners[id(slot.raw)]:
            if (module_name, parameter) == (slot.module_name, slot.parameter):
                continue
            twin = next((s for s in known.values() if (s.module_name, s.parameter, s.part) == (module_name, parameter, slot.part)), None)
            if twin is None:
                raise UserError(f"lora.targets: layer {name} shares its weight with {module_name}, which cannot be adapted; leave it out.")
            if twin.name not in chosen:
                _choose(dict(known), chosen, twin.name, chosen[name])


def _target(slot: Slot, rank: LayerRank, config: LoraConfig) -> Target:
    refuse(slot)
    limit = most(slot, config.method)
    if rank.explicit and rank.r > limit:
        raise UserError(
            f"lora.targets: layer {slot.name} cannot have rank {rank.r}; above {limit} an update of its {slot.shape[0]} × {slot.shape[1]}"
            " weight has more parameters than the weight itself."
        )
    r = min(rank.r, limit)
    # Capping keeps the scaling.
    alpha = rank.alpha * (config.scaling(rank) / config.scaling(LayerRank(max(r, 1), rank.alpha)))
    return Target(slot, LayerRank(r, alpha, rank.explicit), asked=rank.r)


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise UserError(f"{pattern!r} is not a regular expression: {error}.") from None

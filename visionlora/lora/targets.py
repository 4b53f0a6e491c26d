"""From patterns to the layers that get an adapter."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from visionlora.errors import UserError, did_you_mean
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.frozen import FrozenWeight
from visionlora.lora.layer import ADAPTABLE, adaptable


@dataclass(frozen=True)
class Target:
    """One layer chosen, with the rank it gets: ``rank.r`` is at most the rank its matrix can have."""

    name: str
    module: nn.Module
    parameters: tuple[str, ...]
    rank: LayerRank
    asked: int

    @property
    def capped(self) -> bool:
        return self.rank.r < self.asked


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` names the layer: its whole name, its last parts, or a block it is in; globs in each."""
    return any(fnmatch.fnmatchcase(f".{name}.", glob) for glob in (f".{pattern}.", f"*.{pattern}.", f".{pattern}.*", f"*.{pattern}.*"))


def in_any(name: str, patterns: Iterable[str]) -> bool:
    return any(matches(name, pattern) for pattern in patterns)


def select(model: nn.Module, config: LoraConfig, head: Iterable[str] = ()) -> list[Target]:
    """The layers ``config.targets`` chooses, in the model's order. The head and what is under it are never chosen.

    Raises:
        UserError: a pattern matches nothing, a rank named for a layer cannot be had, or a layer cannot be adapted.
    """
    candidates = _candidates(model, head)
    chosen: dict[str, LayerRank] = {}
    for pattern, rank in config.patterns().items():
        names = [name for name, (module, _) in candidates.items() if _chooses(pattern, name, module)]
        if not names:
            last_parts = {part for name in candidates for part in name.split(".") if not part.isdigit()}
            raise UserError(
                f"lora.targets: the pattern {pattern!r} matches no linear or conv layer of the model (the head excluded)."
                f"{did_you_mean(pattern, {*candidates, *last_parts})} Layers are named like {', '.join(list(candidates)[:3])}."
            )
        chosen |= dict.fromkeys(names, rank)
    for pattern in config.exclude:
        excluded = [name for name in chosen if matches(name, pattern)]
        if not excluded and not in_any(pattern, candidates) and not any(matches(name, pattern) for name in candidates):
            raise UserError(f"lora.exclude: the pattern {pattern!r} matches no layer.{did_you_mean(pattern, candidates)}")
        for name in excluded:
            del chosen[name]
    _add_sharers(model, candidates, chosen)
    if not chosen:
        raise UserError("lora.exclude leaves no layer to adapt; lora=none trains the head alone.")
    return [_target(name, *candidates[name], chosen[name], config) for name in candidates if name in chosen]


def exactly(model: nn.Module, config: LoraConfig, ranks: Mapping[str, LayerRank]) -> list[Target]:
    """The layers named in ``ranks``, whatever ``config.targets`` says: for reading an adapter back.

    Raises:
        UserError: the model has no such layer, or it cannot have that rank.
    """
    candidates = _candidates(model)
    for name in ranks:
        if name not in candidates:
            raise UserError(
                f"the adapter is for another model: this one has no linear or conv layer {name!r}.{did_you_mean(name, candidates)}"
            )
    return [_target(name, *candidates[name], rank, config) for name, rank in ranks.items()]


def _candidates(model: nn.Module, head: Iterable[str] = ()) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
    head = tuple(head)
    return {
        name: (module, parameters)
        for name, module in model.named_modules()
        if ((parameters := adaptable(module)) or _obstacle(module)) and not any(name == h or name.startswith(h + ".") for h in head)
    }


def _add_sharers(model: nn.Module, candidates: Mapping[str, tuple[nn.Module, tuple[str, ...]]], chosen: dict[str, LayerRank]) -> None:
    """A layer that shares its weight with a chosen one is chosen too: merging writes the weight once, for both."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    for name in list(chosen):
        module, parameters = candidates[name]
        for parameter in parameters:
            for other in owners[id(module._parameters[parameter])]:
                if other not in candidates:
                    raise UserError(f"lora.targets: layer {name} shares its weight with {other}, which cannot be adapted; leave it out.")
                chosen.setdefault(other, chosen[name])


def _chooses(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern == "auto":
        return not _is_depthwise(module)
    return pattern == "all" or matches(name, pattern)


def _is_depthwise(module: nn.Module) -> bool:
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == getattr(module, "in_channels", None)


def _target(name: str, module: nn.Module, parameters: tuple[str, ...], rank: LayerRank, config: LoraConfig) -> Target:
    if obstacle := _obstacle(module):
        raise UserError(f"lora.targets: layer {name} {obstacle}, or leave it out with lora.exclude.")
    limit = min(min(FrozenWeight(module._parameters[p]).matrix_shape) for p in parameters)  # type: ignore[arg-type]
    if rank.explicit and rank.r > limit:
        raise UserError(f"lora.targets: layer {name} cannot have rank {rank.r}; its weight has rank {limit} at the most.")
    r = min(rank.r, limit)
    alpha = rank.alpha * (config.scaling(rank) / config.scaling(LayerRank(r, rank.alpha)))  # capping keeps the scaling
    return Target(name, module, parameters, LayerRank(r, alpha, rank.explicit), asked=rank.r)


def _obstacle(module: nn.Module) -> str:
    """Why a layer of an adaptable kind cannot be adapted, or ``""``."""
    if not isinstance(module, tuple(ADAPTABLE)):
        return ""
    if nn.utils.parametrize.is_parametrized(module):
        return "is parametrised (torch.nn.utils.parametrize); remove the parametrisation first"
    if "weight_g" in module._parameters:
        return "is weight-normed; call torch.nn.utils.remove_weight_norm first"
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module._parameters.values()):
        return "is lazy; run the model on one batch first"
    return ""

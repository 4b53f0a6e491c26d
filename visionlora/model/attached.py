"""What is kept on a model, outside its state dict, beside what the backbone and LoRA need: one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from visionlora.backbone.info import BackboneInfo
from visionlora.lora.config import LoraConfig

_KEY = "_visionlora"


@dataclass
class Companions:
    """What an adapter has beside its factors.

    Args:
        heads: its heads by name; the very modules that stand in the model while they are shown.
        values: of what else was trained with it (norms, biases, layers made anew), by state-dict key, while they are not shown.
        info: what is known of the backbone with this head.
    """

    heads: dict[str, nn.Module]
    values: dict[str, Tensor] = field(default_factory=dict)
    info: BackboneInfo | None = None


@dataclass
class Attached:
    """The object that is kept on a model.

    Args:
        companions: of each adapter, by its name.
        shown: the adapter whose companions stand in the model; ``""`` for none.
        base: the base's own values of every key that the companions of some adapter have values for.
        asked: what ``inject`` was called with, for a module that is not told.
        fingerprint: of the base, with the versions of the weights that it was taken of.
    """

    companions: dict[str, Companions] = field(default_factory=dict)
    shown: str = ""
    base: dict[str, Tensor] = field(default_factory=dict)
    asked: LoraConfig | None = None
    fingerprint: tuple[Any, dict[str, str]] | None = None


def attached(model: nn.Module) -> Attached:
    """What is kept on ``model``; made when first asked for."""
    found = model.__dict__.setdefault(_KEY, Attached())
    assert isinstance(found, Attached)
    return found

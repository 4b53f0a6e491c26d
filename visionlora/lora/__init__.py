"""LoRA for any ``nn.Module``. This part knows torch alone, and loads it only when something other than the config is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visionlora.lora.config import LayerRank, LoraConfig

if TYPE_CHECKING:
    from visionlora.lora.inject_report import InjectReport
    from visionlora.lora.injection import inject
    from visionlora.lora.merging import merge, remove, unmerge

_LAZY = {
    "InjectReport": "inject_report",
    "inject": "injection",
    "merge": "merging",
    "unmerge": "merging",
    "remove": "merging",
}

__all__ = ["InjectReport", "LayerRank", "LoraConfig", "inject", "merge", "remove", "unmerge"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"visionlora.lora.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

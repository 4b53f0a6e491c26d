"""The methods of adaptation by name. A method is a subclass of ``Adapter``: a rule that makes the effective weight of the frozen one."""

from __future__ import annotations

from typing import Any

from visionlora.common.registry import Registry

METHODS: Registry[type[Any]] = Registry(
    "lora.method",
    "visionlora.methods",
    lora="visionlora.lora.adapter:Adapter",
    dora="visionlora.lora.dora:DoraAdapter",
    adalora="visionlora.lora.adalora:AdaLoraAdapter",
)
"""Name -> subclass of ``Adapter``. What it cannot write as LoRA's two factors (``to_lora``) is not saved with an adapter."""
WITHOUT_ADAPTERS = ("none", "full")
"""``none`` trains the head alone, ``full`` trains every weight; both go through the same command."""

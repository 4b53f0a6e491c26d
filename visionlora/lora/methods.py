"""Adaptation methods by name. A method is a subclass of ``Adapter``: a rule from the frozen weight and its factors to the effective."""

from __future__ import annotations

from visionlora.lora.adalora import AdaLoraAdapter
from visionlora.lora.adapter import Adapter
from visionlora.lora.dora import DoraAdapter

METHODS: dict[str, type[Adapter]] = {"lora": Adapter, "dora": DoraAdapter, "adalora": AdaLoraAdapter}

"""An adapter in PEFT's terms: its keys, shapes and config, and where it means something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from visionlora.lora.adapter_files import PREFIX
from visionlora.lora.layer import LoraLayer
from visionlora.lora.slots import Slot


def peft_key(slot_name: str, tensor: str) -> str:
    """The key that PEFT's file has for a tensor of the adapter of that slot."""
    return f"{PREFIX}{slot_name}.{tensor}" + ("" if tensor == "lora_magnitude_vector" else ".weight")


def peft_shape(slot: Slot, tensor: str, r: int) -> tuple[int, ...]:
    """PEFT's shape of a tensor: A ``(r, in/groups, *kernel)``, B ``(out, r, 1, …)``, a magnitude ``(out,)`` or ``(1, out, 1, …)``."""
    out, kernel = slot.shape[0], slot.raw.shape[2:]
    if tensor == "lora_A":
        return (r, slot.shape[1] // kernel.numel(), *kernel)
    if tensor == "lora_B":
        return (out, r, *(1 for _ in kernel))
    return (1, out, *(1 for _ in kernel)) if kernel else (out,)


def beyond_peft(slot: Slot) -> str:
    """Why PEFT cannot compute what the adapter of this slot does, or ``""``."""
    module = slot.module
    kind = module.base_class if isinstance(module, LoraLayer) else type(module)
    if slot.part:
        return "some rows of a fused weight"
    if kind not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return f"a layer of class {kind.__name__}"
    if getattr(module, "groups", 1) != 1:
        return "a grouped convolution"
    if getattr(module, "padding_mode", "zeros") != "zeros" or any(d != 1 for d in getattr(module, "dilation", ())):
        return "a dilated or not zero-padded convolution"
    return ""


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a magnitude without its axes of length one; any other shape as it is."""
    return (shape[1],) if shape[:1] == (1,) and set(shape[2:]) <= {1} else shape


def peft_config(
    ranks: Mapping[str, int], alphas: Mapping[str, float], whole: Sequence[str], bias: str, dropout: float = 0.0, dora: bool = False
) -> dict[str, Any]:
    """The contents of PEFT's ``adapter_config.json``.

    Args:
        ranks: slot name -> rank; at least one.
        alphas: slot name -> ``scaling · rank``, so that PEFT needs no rsLoRA switch to read it.
        whole: names of modules that are saved whole.
        bias: ``all`` where biases are saved beside the adapters, else ``none``.
        dropout: that the adapters were trained with.
        dora: they scale rows.
    """
    r, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": "(" + "|".join(re.escape(name) for name in ranks) + ")",
        "rank_pattern": {f"^{re.escape(name)}": value for name, value in ranks.items() if value != r},
        "alpha_pattern": {f"^{re.escape(name)}": value for name, value in alphas.items() if value != alpha},
        "modules_to_save": list(whole) or None,
        "bias": bias,
        "use_rslora": False,
        "use_dora": dora,
        "inference_mode": True,
        "task_type": None,
    }

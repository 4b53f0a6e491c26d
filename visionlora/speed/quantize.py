"""A frozen base in 8 bits by torchao, as QLoRA has one in 4 bits (Dettmers et al. 2023, arXiv 2305.14314, §3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from visionlora.common.errors import UserError
from visionlora.common.quiet import hushed
from visionlora.lora.frozen import dense, is_quantized


def quantize(model: nn.Module, head: Iterable[str] = ()) -> int:
    """Hold the weight of every ``nn.Linear`` but the head as int8 with a scale a row, a quarter of the memory, in place.

    This comes before ``inject``, so that the adapters learn beside what is really computed. A merged model has dense weights.

    Args:
        model: plain.
        head: names of modules that are left as they are.

    Returns:
        How many layers.

    Raises:
        UserError: torchao is not installed, or the model has no such layer.
    """
    try:
        with warnings.catch_warnings(), hushed("torchao", "torch.utils._pytree"):
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError(f'model.quantize=int8 needs torchao ({error}). Install it with: pip install "visionlora[quantize]"') from None
    below = tuple(h + "." for h in head)
    chosen = {m for name, m in model.named_modules() if type(m) is nn.Linear and not (below and f"{name}.".startswith(below))}
    if not chosen:
        raise UserError("model.quantize=int8: this model has no linear layer beside its head; it is for transformers.")
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: module in chosen)
    for module in chosen:
        module.weight.requires_grad_(False)
    return len(chosen)


def dequantize(model: nn.Module) -> None:
    """Give every weight that is still quantised the numbers it stands for, in place: for an export."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_quantized(parameter):
                module._parameters[name] = nn.Parameter(dense(parameter.detach()), requires_grad=False)


def quantized(model: nn.Module) -> bool:
    """Whether any weight of ``model`` is quantised."""
    return any(is_quantized(parameter) for parameter in model.parameters())

"""Calls into torch and timm that are private, undocumented or may change; ``tests/common/test_compat.py`` says when one has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def traced() -> bool:
    """Whether the code that runs is being compiled, or transformed by ``torch.func`` (``vmap``, ``grad``, …)."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def owned(y: Tensor) -> Tensor:
    """``y`` as a tensor of its own; what it is a view of must not be in use.

    Some versions of torch return a view from a linear layer, and what a custom ``Function`` returns as one may not be changed in place.
    """
    return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y


def changes(tensor: Tensor) -> int:
    """How often the tensor has been written to in place."""
    return tensor._version


def convolution_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the weight of a 2-D convolution without bias; one that is not ``wanted`` is ``None``."""
    mask = [*wanted, False]
    found = torch.ops.aten.convolution_backward(grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, mask)
    return found[0], found[1]


def loses_gradients_in_bf16(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Whether a CPU gets the gradient of the weight of ``conv`` wrong in bfloat16, for inputs of ``height × width``.

    oneDNN leaves a part of it unwritten where the kernel hangs over the input by more than it covers (torch 2.14 on AVX-512: kernels of 3
    with steps of 2 and of 5 over one pixel, of 7 over two). Depthwise convs are right.
    """
    if conv.groups == conv.in_channels or isinstance(conv.padding, str):
        return False
    sides = zip((height, width), conv.padding, conv.stride, strict=True)
    return any(padding > side or (stride > 1 and padding >= side) for side, padding, stride in sides)


def softmax_gradient(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient of a softmax over the last axis, from that of its result ``out``."""
    return torch._softmax_backward_data(grad, out, -1, out.dtype)


def versioned(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the versions of the model's modules, which safetensors does not keep and MNASNet asks for."""
    found: Any = OrderedDict(state)
    own: Any = model.state_dict()
    found._metadata = getattr(state, "_metadata", None) or own._metadata
    return found  # type: ignore[no-any-return]


def save_hub_config(model: nn.Module, path: Path, model_config: dict[str, Any], model_args: dict[str, Any]) -> None:
    """Write timm's ``config.json``. timm's ``save_for_hf`` itself cannot save tensors that share their memory (CoaT's)."""
    from timm.models._hub import save_config_for_hf

    save_config_for_hf(model, str(path), model_config=model_config, model_args=model_args)

"""Numbers that are not finite: found where they first appear, and refused where they would be handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from visionlora.common.errors import UserError
from visionlora.common.watching import watching


def all_finite(tensor: Tensor) -> bool:
    """Whether there is neither nan nor infinity in ``tensor``."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def refuse_not_finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Make sure that every tensor is finite.

    Raises:
        UserError: one is not; ``where`` begins the sentence.
    """
    for name, tensor in tensors:
        if not all_finite(tensor):
            raise UserError(
                f"{where}: {name} has values that are not finite (nan or infinity); the training diverged or the file is damaged."
            )


@torch.no_grad()
def first_not_finite(model: nn.Module, forward: Callable[[], Any]) -> str:
    """The place where numbers stop being finite: a weight, or the first module whose output is not finite while its input is; in words.

    Args:
        model: the backbone.
        forward: computes what went wrong, once more.
    """
    for name, tensor in model.named_parameters():
        if not all_finite(tensor):
            return f"the weight {name}, since the step before"
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if not found and not all(map(all_finite, _tensors(out))) and all(map(all_finite, _tensors(args))):
                found.append(name)

        return hook

    watched = ((name, module) for name, module in model.named_modules() if name and ".lora" not in name)
    with watching(module.register_forward_hook(look(name)) for name, module in watched):
        forward()
    return f"the output of {found[0]}" if found else "the loss itself"


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]

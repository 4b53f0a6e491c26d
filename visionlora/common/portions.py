"""A batch in portions: as many images at a time as memory holds, with the loss and the gradients of the whole batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda
from torch import Tensor

from visionlora.common.memory import OutOfMemory, out_of_memory

ALL = 2**31
"""Images at a time as long as memory has not given out: more than any batch has."""
T = TypeVar("T")


class Portions:
    """Takes a batch apart into as many images as go through the model at a time.

    Args:
        halve: whether memory that gives out halves the portions, and what failed is done again; otherwise the error goes on.
    """

    def __init__(self, halve: bool) -> None:
        self.halve, self.most = halve, ALL

    @property
    def wanted(self) -> bool:
        """Whether batches are, or may yet be, taken apart."""
        return self.halve or self.most < ALL

    def of(self, count: int) -> list[slice]:
        """``count`` images in portions."""
        return [slice(start, min(start + self.most, count)) for start in range(0, count, self.most)]

    def compute(self, count: int, compute: Callable[[list[slice]], T]) -> T:
        """``compute(portions)`` for a batch of ``count`` images, again with smaller ones as often as memory gives out.

        Raises:
            OutOfMemory: one image at a time is too much.
        """
        while True:
            try:
                return compute(self.of(count))
            except (RuntimeError, MemoryError) as error:
                if not self.halve or not out_of_memory(error):
                    raise
            # Outside the handler: the error, and with it the tensors of the frames it came through, are gone.
            self._lower(min(self.most, count))

    def _lower(self, failed: int) -> None:
        gc.collect()
        if torch.cuda.is_available():
            garbage_collection_cuda()
        if failed == 1:
            raise OutOfMemory(
                "out of memory with a single image at a time, which cannot be halved; model.checkpointing=light or blocks,"
                " a smaller data.image_size or a smaller model take less."
            )
        self.most = -(-failed // 2)
        print(f"trainer.on_oom=halve: out of memory; from now on {self.most} images at a time, gradients and steps as before.")


def loss_with_gradients(
    losses: Callable[[slice], Tensor], portions: Sequence[slice], parameters: Sequence[Tensor], scale: float = 1.0
) -> Tensor:
    """The mean loss of a batch, with the gradients computed already, portion after portion: only one is held at a time.

    Args:
        losses: mean loss of a portion.
        portions: of the batch, which they make up together.
        parameters: those for which gradients are wanted.
        scale: factor by which losses are multiplied for the computation, against underflow in float16.

    Returns:
        A scalar whose backward pass hands on the gradients.
    """
    count = portions[-1].stop
    total: Tensor | None = None
    gradients: list[Tensor | None] = [None] * len(parameters)
    for portion in portions:
        loss = losses(portion) * ((portion.stop - portion.start) / count)
        with torch.autocast(loss.device.type, enabled=False):  # as in an ordinary backward pass
            more = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        gradients = [b if a is None else a if b is None else a + b for a, b in zip(gradients, more, strict=True)]
        total = loss.detach() if total is None else total + loss.detach()
    return _Known.apply(total, [g if g is None or scale == 1 else g / scale for g in gradients], *parameters)  # type: ignore[no-any-return]


class _Known(torch.autograd.Function):
    """A loss whose gradients are known. They reach the parameters as those of any loss do: accumulated, scaled, shared among processes."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if g is None else g * outer[0].to(g.dtype) for g in gradients)

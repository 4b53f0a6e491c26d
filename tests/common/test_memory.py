"""Memory that gives out is known for what it is, and gradients in portions are those of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionlora.common.memory import available_memory, memory_has_an_end, out_of_memory
from visionlora.common.portions import Portions, loss_with_gradients

ERRORS: dict[str, BaseException] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 800000000 bytes."),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 32.00 KB, max allowed: 9.07 GB)."),
    "onednn": RuntimeError("could not create a primitive"),
    "numpy": MemoryError("Unable to allocate 176. MiB for an array with shape (300, 160, 160, 3)"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_every_allocator_is_understood(error: str) -> None:
    assert out_of_memory(ERRORS[error])


@pytest.mark.parametrize("message", ["mat1 and mat2 shapes cannot be multiplied", "could not create a primitive descriptor for a conv"])
def test_other_errors_are_not_taken_for_it(message: str) -> None:
    assert not out_of_memory(RuntimeError(message))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the allocator of a GPU has an end of its own")
def test_inside_memory_has_an_end() -> None:
    size = available_memory()
    assert 0 < size < 2**50
    with memory_has_an_end(), pytest.raises(RuntimeError) as raised:
        torch.empty(size, dtype=torch.uint8)
    assert out_of_memory(raised.value)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_portions_give_loss_and_gradients_of_the_whole(most: int, scale: float) -> None:
    torch.manual_seed(0)
    model, unused = nn.Linear(5, 3).double(), nn.Parameter(torch.zeros(2).double())
    x, y = torch.randn(7, 5).double(), torch.randint(3, (7,))
    parameters = [*model.parameters(), unused]
    wanted = torch.autograd.grad(3 * nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    portions = Portions(halve=True)
    portions.most = most
    sizes = [part.stop - part.start for part in portions.of(7)]
    assert sum(sizes) == 7
    assert max(sizes) <= most
    loss = loss_with_gradients(lambda part: nn.functional.cross_entropy(model(x[part]), y[part]), portions.of(7), parameters, scale)
    (3 * loss).backward()
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(x), y))
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert unused.grad is None


def test_a_portion_that_does_not_fit_is_halved_until_it_does() -> None:
    portions, tried = Portions(halve=True), []

    def compute(parts: list[slice]) -> int:
        tried.append(parts[0].stop)
        if parts[0].stop > 2:
            raise MemoryError
        return sum(part.stop - part.start for part in parts)

    assert portions.compute(13, compute) == 13
    assert tried == [13, 7, 4, 2]
    assert portions.compute(1, compute) == 1
    assert portions.most == 2

"""Steps are taken back after an error, and only then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from torch import nn

from visionlora.common.undo import remember_trained, undone_on_error


@contextlib.contextmanager
def fails(error: type[BaseException]) -> Iterator[contextlib.ExitStack]:
    """A block that ends with this error, which comes through the undoing."""
    with pytest.raises(error), undone_on_error() as undo:  # noqa: PT012
        yield undo
        raise error


def test_steps_are_taken_back_the_last_first() -> None:
    done: list[int] = []
    with fails(KeyboardInterrupt) as undo:
        for step in range(3):
            undo.callback(done.append, step)
    assert done == [2, 1, 0]


def test_without_an_error_nothing_is_taken_back() -> None:
    done: list[int] = []
    with undone_on_error() as undo:
        undo.callback(done.append, 1)
    assert not done


def test_what_was_trained_is_trained_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with fails(ValueError) as undo:
        remember_trained(model, undo)
        model[0].requires_grad_(True)
        model[1].bias.requires_grad_(False)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]

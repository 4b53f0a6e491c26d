"""The one way to undo: what was done to a model is taken back, step by step, where something fails later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def undone_on_error() -> Iterator[contextlib.ExitStack]:
    """A context after which, where it ends with an error, every step that was noted is taken back, the last one first.

    ::

        with undone_on_error() as undo:
            undo.callback(setattr, model, "scale", model.scale)
            model.scale = 2.0
            check(model)  # where this raises, the scale is as before

    Returns:
        What to note steps with, each by ``callback(function, *args)``.

    Raises:
        BaseException: whatever was raised inside, after all was undone.
    """
    undo = contextlib.ExitStack()
    try:
        yield undo
    except BaseException:
        undo.close()
        raise


def remember_trained(model: nn.Module, undo: contextlib.ExitStack) -> None:
    """Note which parameters of ``model`` are trained; undoing trains these and no others, parameters that came later included."""
    undo.callback(_train_only, model, [parameter for parameter in model.parameters() if parameter.requires_grad])


def _train_only(model: nn.Module, trained: list[nn.Parameter]) -> None:
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)

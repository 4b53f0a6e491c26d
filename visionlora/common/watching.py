"""The one way to watch a model run: hooks that are taken away again, whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch.utils.hooks import RemovableHandle


@contextlib.contextmanager
def watching(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, the hooks are there; ``hooks`` is gone through at the beginning, so that it may be a generator that registers them.

    ::

        with watching(module.register_forward_hook(note) for module in model.modules()):
            model(images)
    """
    with contextlib.ExitStack() as there:
        for hook in hooks:
            there.callback(hook.remove)
        yield

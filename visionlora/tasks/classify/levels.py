"""Classes that are within others, as their names say: ``animal/cat``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def levels_of(names: Sequence[str]) -> list[list[str]]:
    """What every class is called at each level, from the widest to the class itself; ``[]`` where names have no levels.

    >>> levels_of(["animal/cat", "animal/dog", "plant/fern"])
    [['animal', 'animal', 'plant'], ['animal/cat', 'animal/dog', 'plant/fern']]
    """
    parts = [name.split("/") for name in names]
    depth = len(parts[0])
    if depth == 1 or any(len(some) != depth or not all(some) for some in parts):
        return []
    return [["/".join(some[:level]) for some in parts] for level in range(1, depth + 1)]


def right_at(probabilities: Tensor, targets: Tensor, called: Sequence[str]) -> Tensor:
    """Which images are right at a level: their class's group has the largest sum of probabilities, bool ``(N,)``.

    Args:
        probabilities: of the classes, ``(N, classes)``.
        targets: classes, ``(N,)``.
        called: what every class is called at the level.
    """
    groups = sorted(set(called))
    of_class = torch.tensor([groups.index(name) for name in called])
    sums = torch.zeros(len(probabilities), len(groups)).index_add_(1, of_class, probabilities.float())
    return sums.argmax(1) == of_class[targets]

"""Data set and sampler in which randomness is a function of seed, epoch and picture: the same with any number of workers,
any number of processes, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from visionlora.data.pictures import Pictures
from visionlora.data.transforms import Transform


class TransformedPictures(Dataset[tuple[Tensor, int]]):
    """``(uint8 (C, H, W), label)`` for an item ``(index, seed)`` of the sampler, or for an index alone (Lightning's own samplers)."""

    def __init__(self, pictures: Pictures, transform: Transform, channels: int) -> None:
        self.pictures, self.transform, self.channels = pictures, transform, channels

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[Tensor, int]:
        index, seed = item if isinstance(item, tuple) else (item, item)
        image = self.pictures.open(index, self.channels, self.transform.detail)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(image), self.pictures.labels[index]


class LateLoader(DataLoader[Any]):
    """A ``DataLoader`` that fetches nothing before its first batch is asked for.

    When a run is resumed, Lightning makes the loader's iterator before it tells the sampler which epoch it is. Worker processes would
    have fetched the first pictures of epoch 0 by then, in that epoch's order and with its augmentation.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(index, seed)``; this process's share when there are several.

    Args:
        size: number of pictures.
        seed: of the run.
        shuffle: a new order each epoch, shares padded to the same length; otherwise in order, and shares may differ by one,
            so that an evaluation counts every picture once.
    """

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, after a resume too."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, processes = _process()
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        seeds = torch.randint(2**62, (self.size,), generator=generator).tolist()
        order = torch.randperm(self.size, generator=generator).tolist() if self.shuffle else list(range(self.size))
        if self.shuffle:
            order += order[: -self.size % processes]
        return iter([(index, seeds[index]) for index in order[rank::processes]])

    def __len__(self) -> int:
        rank, processes = _process()
        return -(-self.size // processes) if self.shuffle else len(range(rank, self.size, processes))


class OneView(EpochSampler):
    """In order, with the seeds of epoch ``view``, whatever epoch it is."""

    def __init__(self, size: int, seed: int, view: int) -> None:
        super().__init__(size, seed, shuffle=False)
        self.epoch = view

    def set_epoch(self, epoch: int) -> None:
        """The view stays."""


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, such as a run's seed, an epoch and a process."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _process() -> tuple[int, int]:
    ready = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)

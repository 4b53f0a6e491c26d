"""Data set and sampler in which randomness is a function of seed, epoch and image: the same with any number of workers,
any number of processes, and after a resume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.processes import worker_ending
from visionlora.data.decoded import Decoded
from visionlora.data.images import Images, Unreadable
from visionlora.data.transforms import Transform
from visionlora.tasks.placed import PlacedTask

SKIPPED = -1
"""In the place of the seed of an image that an epoch leaves out, see ``data.pruning``."""


class LeftOut(NamedTuple):
    """What stands in the place of an image that cannot be read."""

    place: int
    why: str


class TransformedImages(Dataset[tuple[Tensor, Any] | LeftOut | None]):
    """``(uint8 (C, H, W), label)`` for an item ``(index, seed)`` of the sampler, or for an index alone (Lightning's own samplers).

    Args:
        images: to be opened.
        transform: to a tensor.
        channels: of the images.
        targets: makes a tensor of the labels of a batch.
        unreadable: those that cannot be read are noted here, by the process that consumes the batches.
        placed: the task, where its labels lie in the images.
        decoded: keeps images as they are decoded, for a later time.
    """

    def __init__(
        self,
        images: Images,
        transform: Transform,
        channels: int,
        targets: Callable[[Sequence[Any]], Tensor],
        unreadable: Unreadable | None = None,
        placed: PlacedTask | None = None,
        decoded: Decoded | None = None,
    ) -> None:
        self.decoded = decoded
        self.images, self.transform, self.channels, self.targets, self.placed = images, transform, channels, targets, placed
        self.unreadable: Unreadable = {} if unreadable is None else unreadable

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[Tensor, Any] | LeftOut | None:
        index, seed = item if isinstance(item, tuple) else (item, item)
        if seed == SKIPPED:
            return None
        try:
            if self.decoded is None:
                steps: Callable[[Image.Image], Tensor] = self.transform
                image = self.images.open(index, self.channels, self.transform.detail)
            else:
                image, steps = self.decoded.open(self.images, index, self.channels, self.transform)
            label = self.images.labels[index]
            placed = None if self.placed is None else self.placed.placed(label, image)
        except UnreadableError as error:
            return LeftOut(index, error.why)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.placed is None or placed is None:
                return steps(image), label
            view, moved = self.transform.with_labels(image, placed)
            return view, self.placed.of_placed(moved)

    def batch(self, items: Sequence[tuple[Tensor, Any] | LeftOut | None]) -> tuple[Tensor, Tensor, list[LeftOut]]:
        """``(uint8 (N, C, H, W), targets (N, ...), left out)``; N is smaller by what could not be read, and may be 0."""
        left_out = [item for item in items if isinstance(item, LeftOut)]
        shown = [item for item in items if item is not None and not isinstance(item, LeftOut)]
        if not shown:
            none = self.targets([] if self.placed is not None else self.images.labels[:1])[:0]
            return torch.empty(0, self.channels, 1, 1, dtype=torch.uint8), none, left_out
        return default_collate([image for image, _ in shown]), self.targets([label for _, label in shown]), left_out


class LateLoader(DataLoader[Any]):
    """A ``DataLoader`` that fetches nothing before its first batch is asked for.

    When a run is resumed, Lightning makes the loader's iterator before it tells the sampler which epoch it is. Worker processes would
    have fetched the first images of epoch 0 by then, in that epoch's order and with its augmentation.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


class FileLoader(LateLoader):
    """Batches ``(images, labels)`` of a ``TransformedImages``; what cannot be read is left out, noted, and replaced by nothing.

    Which images are asked for together is settled before any is opened: whatever was left out before, in this process or in the one
    that a resumed run goes on from, the batches are the same. In training a batch of none is a batch all the same: every process makes as
    many steps as it has planned. Elsewhere it does not come.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        dataset: Any = self.dataset
        training = getattr(self.sampler, "shuffle", True)
        for images, labels, left_out in super().__iter__():
            for place, why in left_out:
                dataset.unreadable[dataset.images.names[place]] = why
            if training or len(labels):
                yield images, labels


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(index, seed)``; this process's share when there are several.

    Args:
        size: number of images.
        seed: of the run.
        shuffle: a new order each epoch, shares padded to the same length; otherwise in order, and shares may differ by one,
            so that an evaluation counts every image once.
        weights: of the images, where an epoch is as many draws in proportion to them, with replacement.
        repeats: times that an image comes in a row, each time as another view; an epoch is as long, so that it shows a share of the images.
        skipped: epoch -> whether it leaves out each image, which then comes with ``SKIPPED`` in place of a seed.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        shuffle: bool,
        weights: Tensor | None = None,
        repeats: int = 1,
        skipped: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.skipped = skipped
        self.size, self.seed, self.shuffle, self.weights, self.repeats, self.epoch = size, seed, shuffle, weights, repeats, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, after a resume too."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, processes = _process()
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        seeds = torch.randint(2**62, (self.size,), generator=generator).tolist()
        order = list(range(self.size))
        if self.shuffle and self.weights is not None:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        elif self.shuffle:
            order = torch.randperm(self.size, generator=generator).tolist()
        if self.repeats > 1:
            order = [index for index in order for _ in range(self.repeats)][: self.size]
        if self.shuffle:
            order += order[: -self.size % processes]
        if self.weights is not None or self.repeats > 1:  # an image that comes twice is shown as two views
            items = [(index, seeds[place % self.size]) for place, index in enumerate(order)][rank::processes]
        else:
            items = [(index, seeds[index]) for index in order[rank::processes]]
        if self.skipped is not None:
            skipped = self.skipped(self.epoch).tolist()
            items = [(index, SKIPPED if skipped[index] else seed) for index, seed in items]
        return iter(items)

    def __len__(self) -> int:
        rank, processes = _process()
        return -(-self.size // processes) if self.shuffle else len(range(rank, self.size, processes))


class OneView(EpochSampler):
    """Goes through the images in order, always with the random seeds of epoch ``view``."""

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


def file_loader(images: TransformedImages, sampler: EpochSampler, batch_size: int, workers: int) -> FileLoader:
    """Batches of images that are opened one at a time, by so many processes; 0: by this one."""
    return FileLoader(
        images,
        batch_size=batch_size,
        collate_fn=images.batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=worker_ending(),
        generator=torch.Generator(),  # else each epoch draws from the global one
        drop_last=sampler.shuffle and len(sampler) % batch_size == 1 < len(sampler),  # as EpochBatches
    )


def draws(weights: Sequence[float], groups: Sequence[int] | None) -> Tensor | None:
    """How often each image is drawn, in proportion, float64 ``(N,)``; ``None``: all equally often.

    Args:
        weights: of each image; empty where all have the same.
        groups: of each image, where every group is drawn as often.

    Raises:
        UserError: no weight is above 0.
    """
    found = torch.tensor(weights, dtype=torch.float64) if weights else None
    if groups is not None:
        counts = Counter(groups)
        balanced = torch.tensor([1 / counts[group] for group in groups], dtype=torch.float64)
        found = balanced if found is None else balanced * found
    if found is not None and not found.sum() > 0:
        raise UserError("no image of the training part has a weight above 0.")
    return found

"""Whole batches at a time: of images that are in memory, and of cached features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from visionlora.data.images import Images
from visionlora.data.loading import SKIPPED, EpochSampler
from visionlora.data.opening import to_mode
from visionlora.data.transforms import BatchTransform

Asked = tuple[int, list[tuple[int, int]]]
"""Epoch, and ``(index, seed)`` of each image."""


class EpochBatches(Sampler[Asked]):
    """Batches of an ``EpochSampler``'s images. While ``shuffle`` is on, a last batch of one image is left out.

    Args:
        sampler: order and seeds.
        batch_size: images a batch.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, after a resume too."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Asked]:
        items, size = list(self.sampler), self.batch_size
        for start in range(0, len(self) * size, size):
            yield self.sampler.epoch, [item for item in items[start : start + size] if item[1] != SKIPPED]

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        alone = self.sampler.shuffle and rest == 1 and whole > 0  # batch-norm in train mode cannot take one image
        return whole + (rest > 0 and not alone)


class MemoryImages(Dataset[tuple[Tensor, Tensor]]):
    """Images of one size in memory as uint8, transformed in batches: ``(uint8 (N, C, H, W), targets (N, ...))``."""

    def __init__(self, pictures: Images, targets: Tensor, transform: BatchTransform, channels: int) -> None:
        assert pictures.arrays is not None
        self.transform, self.targets = transform, targets
        self.images = _as_tensor(pictures, channels)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, asked: Asked) -> tuple[Tensor, Tensor]:
        _, items = asked
        indices = torch.tensor([index for index, _ in items], dtype=torch.long)
        if not items:
            return self.images[indices], self.targets[indices]
        return self.transform(self.images[indices], [seed for _, seed in items]), self.targets[indices]


class CachedFeatures(Dataset[tuple[Tensor, Tensor]]):
    """Features ``(views, images, ...)`` from the cut of a ``Front`` with targets ``(images, ...)``, in batches of both; epoch ``e`` shows
    view ``e mod views``.
    """

    def __init__(self, views: Tensor, targets: Tensor) -> None:
        self.views, self.targets = views, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, asked: Asked) -> tuple[Tensor, Tensor]:
        epoch, items = asked
        indices = torch.tensor([index for index, _ in items], dtype=torch.long)
        return self.views[epoch % len(self.views)][indices], self.targets[indices]


def _as_tensor(pictures: Images, channels: int) -> Tensor:
    """uint8 ``(N, C, H, W)``."""
    arrays = pictures.arrays
    assert arrays is not None
    if arrays.ndim == 4 and arrays.shape[-1] == channels:
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
    if arrays.ndim == 3 and channels in (1, 3):
        return torch.from_numpy(arrays)[:, None].repeat(1, channels, 1, 1)
    import numpy as np
    from PIL import Image

    modes = [np.asarray(to_mode(Image.fromarray(array), channels)) for array in arrays]
    return torch.from_numpy(np.stack(modes)).reshape(len(modes), *modes[0].shape[:2], channels).permute(0, 3, 1, 2).contiguous()

"""The one DataModule."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from visionlora.backbone.info import Preprocessing
from visionlora.config import DataConfig
from visionlora.data.loading import EpochSampler, TransformedPictures
from visionlora.data.pictures import Pictures, find_pictures
from visionlora.data.sources import load_source
from visionlora.data.split import complete, recorded
from visionlora.data.transforms import Transform, eval_transform, for_data, normalize, train_transform
from visionlora.errors import UserError

Batch = tuple[Tensor, Tensor]


class ImageData(L.LightningDataModule):
    """Pictures of one source as batches ``(float32 (N, C, H, W), int64 (N,))``.

    Args:
        config: source, split, batch size, augmentation.
        seed: of the run: order and augmentation.
        record: split of an earlier run to go by (``split.json``), or ``None`` to make it.

    Raises:
        UserError: see ``sources.load_source`` and ``split.complete``.
    """

    def __init__(self, config: DataConfig, seed: int = 0, record: Mapping[str, list[str]] | None = None) -> None:
        super().__init__()
        source = load_source(config)
        self.config, self.seed, self.classes = config, seed, source.classes
        self.record: dict[str, list[str]]
        if record:
            self.parts, self.record = recorded(source, record), dict(record)
        else:
            self.parts, self.record = complete(source, config)
        self.preprocessing: Preprocessing | None = None

    def prepare_for(self, preprocessing: Preprocessing) -> Preprocessing:
        """Take over what the backbone wants; returns it as this data will be prepared.

        Raises:
            UserError: pictures cannot be read or augmented with that many channels.
        """
        self.preprocessing = for_data(preprocessing, self.config)
        self._train_transform = train_transform(self.preprocessing, self.config)
        return self.preprocessing

    def save_split(self, path: Path) -> None:
        """Write down which pictures were split off, if any were."""
        if self.record:
            path.write_text(json.dumps(self.record))

    def train_dataloader(self) -> DataLoader[Any]:
        """Random views in a new order each epoch."""
        return self._loader(self.parts["train"], self._train_transform, shuffle=True)

    def eval_dataloader(self, part: str) -> DataLoader[Any]:
        """One view of each picture, in order."""
        if part not in self.parts:
            raise UserError(f"the data has no {part} part; it has {', '.join(self.parts)}.")
        return self._loader(self.parts[part], eval_transform(self._ready()))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self.eval_dataloader("val") if "val" in self.parts else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self.eval_dataloader("test")

    def sample_dataloader(self, per_class: int) -> DataLoader[Any]:
        """Evaluation views of the first ``per_class`` training pictures of each class, the classes in turn."""
        train = self.parts["train"]
        seen: Counter[int] = Counter()
        turns = []
        for index, label in enumerate(train.labels):
            seen[label] += 1
            if seen[label] <= per_class:
                turns.append((seen[label], index))
        return self._loader(train.subset([index for _, index in sorted(turns)]), eval_transform(self._ready()))

    def reference_batches(self, folder: Path, most: int) -> list[Batch]:
        """Up to ``most`` pictures below a folder, evenly spread over it, prepared as for evaluation; their labels are all 0.

        Raises:
            UserError: there are none.
        """
        paths = find_pictures(folder, "lora.reference")
        paths = paths[:: max(len(paths) // most, 1)][:most]
        loader = self._loader(Pictures([0] * len(paths), [str(p) for p in paths], paths), eval_transform(self._ready()))
        return [self.on_after_batch_transfer(batch, 0) for batch in loader]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels = batch
        return normalize(images, self._ready()), labels

    def _ready(self) -> Preprocessing:
        if self.preprocessing is None:
            raise RuntimeError("call prepare_for(preprocessing of the backbone) first")
        return self.preprocessing

    def _loader(self, pictures: Pictures, transform: Transform, shuffle: bool = False) -> DataLoader[Any]:
        batch_size, workers = self.config.batch_size, self._workers(pictures)
        sampler = EpochSampler(len(pictures), self.seed, shuffle)
        return DataLoader(
            TransformedPictures(pictures, transform, self._ready().channels),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=shuffle and len(sampler) % batch_size == 1 < len(sampler),  # batch-norm in train mode cannot take one picture
        )

    def _workers(self, pictures: Pictures) -> int:
        if self.config.num_workers is not None:
            return self.config.num_workers
        return 0 if pictures.in_memory else min(8, max(1, (os.cpu_count() or 1) // 2))

"""Every view of every image once, in order, for caches and probes."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from visionlora.data.module import ImageData


class ViewData(L.LightningDataModule):
    """One part of the data in order, for ``trainer.predict``; ``view`` as in ``ImageData.view_dataloader``."""

    def __init__(self, data: ImageData, part: str, view: int | None = None) -> None:
        super().__init__()
        self.data, self.part, self.view = data, part, view

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.data.view_dataloader(self.part, self.view)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


def all_predicted(trainer: L.Trainer) -> bool:
    """Whether ``trainer.predict`` takes every batch; a limit of 1 is one batch, 1.0 is all."""
    limit = getattr(trainer, "limit_predict_batches", 1.0)
    return isinstance(limit, float) and limit == 1.0

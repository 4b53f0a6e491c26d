"""A callback that ends a run as Ctrl-C would, between two epochs."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback


class StopAfter(Callback):
    """Interrupts the epoch that follows so many whole ones."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise KeyboardInterrupt

"""Early stopping whose patience can be counted in steps: ``callbacks=early_stopping``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningsEarlyStopping


class EarlyStopping(LightningsEarlyStopping):
    """Lightning's, which looks at each validation (``trainer.val_check_interval``); its patience may be counted in optimizer steps.

    Args:
        monitor: a figure of ``metrics.csv``.
        patience_steps: end the training at the first validation that is no better than the best, at least so many optimizer steps after it.
            ``None`` counts validations, as ``patience`` says.
        **options: of Lightning's.

    Raises:
        ValueError: ``patience_steps`` is below 1.
    """

    def __init__(self, monitor: str, patience_steps: int | None = None, **options: Any) -> None:
        super().__init__(monitor, **options)
        if patience_steps is not None and patience_steps < 1:
            raise ValueError(f"patience_steps={patience_steps} must be at least 1, or null")
        self.patience_steps, self.best_step = patience_steps, 0

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, and the step of the best validation."""
        return super().state_dict() | {"best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, but not the patience: what is asked for now counts."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience, self.best_step = patience, state_dict.get("best_step", 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer, super().on_train_epoch_end, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer, super().on_validation_end, pl_module)

    def _look(self, trainer: L.Trainer, look: Callable[[L.Trainer, L.LightningModule], None], module: L.LightningModule) -> None:
        """Let Lightning look, with the patience that ends the training now if the steps have run out, and later else."""
        if self.patience_steps is not None:
            self.patience = self.wait_count + (1 if trainer.global_step - self.best_step >= self.patience_steps else 2)
        best = float(self.best_score)
        look(trainer, module)
        if float(self.best_score) != best:
            self.best_step = trainer.global_step

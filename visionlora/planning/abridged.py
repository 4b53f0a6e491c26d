"""A run of which every part happens, but of each loop over batches only the beginning; what is left out is reckoned from that."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from visionlora.common.errors import UserError
from visionlora.common.portions import ALL
from visionlora.planning.beginnings import Beginning, TrainingBeginning, total
from visionlora.training.caching import Collector
from visionlora.training.callbacks import peak_memory_mib


class Abridged(Callback):
    """Ends each loop of the Trainer as soon as enough of it has been seen.

    ``StopIteration`` from a callback ends Lightning's loops over evaluation batches as the end of the data does; ``should_stop`` ends
    the training as early stopping does, with a validation and checkpoints. Afterwards ``left_out`` has the seconds that were not
    spent, by what they would have been spent on.

    Args:
        validate_every: epochs from one validation of the whole run to the next; this one has one at its end in any case.
    """

    def __init__(self, validate_every: int) -> None:
        self.validate_every = validate_every
        self.left_out = dict.fromkeys(("cache", "before", "training", "validation", "epochs", "after"), 0.0)
        self.features = {"memory": 0, "disk": 0}  # bytes
        self.figures: dict[str, float] = {}
        self._loop = Beginning(0)
        self._training: TrainingBeginning | None = None

    # Evaluation: before the training, the features to be cached, in the training, and after it.

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loop = Beginning(total(trainer.num_val_batches))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loop = Beginning(total(trainer.num_test_batches))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loop = Beginning(total(trainer.num_predict_batches))

    def _batch_done(self, *_: Any, **__: Any) -> None:
        if self._loop.batch_done():
            raise StopIteration

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_done

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self._training is not None:
            self._training.validated(self._loop)
        else:
            self._ended("before" if self._training is None else "after")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended("before" if self._training is None else "after")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended("cache")
        if isinstance(pl_module, Collector):
            pl_module.bank[pl_module.done :].zero_()  # so that it takes the room that it will
            pl_module.done = len(pl_module.bank)
            self.features["disk" if pl_module.bank.untyped_storage().filename else "memory"] += pl_module.bank.nbytes

    def _ended(self, what: str) -> None:
        self.left_out[what] += self._loop.left_out

    # Training.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.figures["memory/before_fit_mib"] = peak_memory_mib()
        self._training = TrainingBeginning(trainer, self.validate_every)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._training is not None
        self._training.epoch_began()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._training is not None
        if batch_idx == 0:
            self._training.first_batch_came()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._training is not None
        self._training.batch_done(len(batch[1]), batch_idx)
        trainer.should_stop |= self._training.enough()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._training is None:
            raise UserError("trainer.limit_train_batches leaves no training batch; there is nothing to plan.")
        self._training.epoch_ended()
        self.left_out |= self._training.left_out()
        self.figures |= self._training.figures()
        most = int(getattr(pl_module, "portions").most)  # noqa: B009 every module of ours has it
        self.figures["pictures_at_once"] = 0 if most == ALL else most

"""Callbacks of our own: a stopwatch, where the time went, AdaLoRA's schedule; and SIGTERM as Ctrl-C."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from visionlora.common.processes import Termination
from visionlora.data.module import Batch
from visionlora.lora.adalora import RankAllocator
from visionlora.lora.adaptive_config import AdaptiveConfig
from visionlora.training.tables import print_profile


class Stopwatch(Callback):
    """Seconds of ``fit`` and of its training batches alone, and the images in those (of all processes); a resume goes on counting."""

    def __init__(self) -> None:
        self.fit_seconds = self.train_seconds = self.wait_seconds = 0.0
        self.pictures = 0
        self.training = False
        self.epochs = 0  # that this process has finished
        self._since = self._epoch = 0.0

    def figures(self) -> dict[str, float]:
        """What was measured, as keys of ``results.json``."""
        return {
            "seconds/fit": self.fit_seconds,
            "seconds/waiting": self.wait_seconds,
            "images_per_second": self.pictures / max(self.train_seconds, 1e-9),
        }

    def state_dict(self) -> dict[str, float]:
        return {"fit": self._elapsed(), "train": self.train_seconds, "pictures": self.pictures, "wait": self.wait_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.fit_seconds, self.train_seconds, self.pictures = state_dict["fit"], state_dict["train"], state_dict["pictures"]
        self.wait_seconds = state_dict.get("wait", 0.0)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.training = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_seconds = self._elapsed()

    def _elapsed(self) -> float:
        return self.fit_seconds + time.perf_counter() - self._since

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs += 1

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        self.wait_seconds += time.perf_counter() - self._epoch

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._epoch
        self._epoch = now
        self.pictures += len(batch[1]) * trainer.world_size


class EpochProfile(Callback):
    """Says where the time of the training batches went: ``callbacks=profile``."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("waiting for data", "forward", "backward", "optimizer and the rest", "validation"), 0.0)
        self._since = 0.0

    def _spent_on(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what] += now - self._since
        self._since = now

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._spent_on("waiting for data")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        self._spent_on("forward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._spent_on("backward")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._spent_on("optimizer and the rest")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._since:
            self._spent_on("validation")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            print_profile(self.seconds)


class Terminable(Callback):
    """SIGTERM ends the Trainer's work as Ctrl-C does. Lightning's own handler waits for processes that may wait for this one."""

    def _handle(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Termination.handle()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _handle


class AdaptiveRanks(Callback):
    """AdaLoRA's budget schedule: takes ranks away after optimizer steps, see ``RankAllocator``."""

    def __init__(self, config: AdaptiveConfig, last: Path) -> None:
        self.config, self.last = config, last
        self.allocator: RankAllocator | None = None
        self._step = 0
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.allocator = RankAllocator(pl_module, self.config, int(trainer.estimated_stepping_batches))
        self.allocator.load_state_dict(self._state)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.allocator is not None and trainer.global_step > self._step:  # not while gradients are accumulated
            self._step = trainer.global_step
            self.allocator.step(self._step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Early stopping or max_time may end the training before the schedule does, and after the last checkpoint was written.
        if self.allocator is not None and not self.allocator.settled(self._step):
            self.allocator.settle()
            trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        return self.allocator.state_dict() if self.allocator else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict


def peak_memory_mib() -> float:
    """Peak memory of this process: of the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    try:  # Linux: of this very program; ru_maxrss would be that of a larger one which started it
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

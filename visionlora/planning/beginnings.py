"""The beginnings of loops over batches, and what their ends would take."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L

from visionlora.data.module import ImageData

WARM_UP = 2
"""Training batches at the start that are not timed, beside those that worker processes have ready by then."""
STEPS, SECONDS, LONGEST = 4, 6.0, 20.0
"""Training batches and their seconds that are timed at least, and seconds of the training after which it ends in any case."""
BATCHES, EVALUATION_SECONDS = 4, 1.5
"""Batches and seconds of every other loop that are seen at least."""


class Beginning:
    """Times a loop over ``count`` batches: when it began, and when each batch was done."""

    def __init__(self, count: int) -> None:
        self.count, self.times = count, [time.perf_counter()]

    def batch_done(self) -> bool:
        """Note it; returns whether enough have been seen. The first one is not timed: it waits for worker processes."""
        self.times.append(time.perf_counter())
        return len(self.times) > BATCHES and self.times[-1] - self.times[1] >= EVALUATION_SECONDS

    @property
    def left_out(self) -> float:
        """Seconds that the batches left out would take."""
        seen = len(self.times) - 1
        timed = (self.times[-1] - self.times[min(seen, 1)]) / max(seen - 1, 1)
        return max(self.count - seen, 0) * timed


class TrainingBeginning:
    """The beginning of a training: what it counts, and what its parts take."""

    def __init__(self, trainer: L.Trainer, validate_every: int) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        self.batch_size, self.accumulate = data.batch_size, trainer.accumulate_grad_batches
        self.batches, self.steps = int(trainer.num_training_batches), int(trainer.estimated_stepping_batches)
        self.epochs = math.ceil(self.steps / math.ceil(self.batches / self.accumulate))
        epoch = min(self.batches * self.batch_size, len(data.parts["train"]))
        self.pictures = min(self.epochs * epoch, self.steps * self.accumulate * self.batch_size)
        checks = self.batches // int(trainer.val_check_batch or self.batches)  # an epoch
        self.validations = self.epochs // validate_every * checks if total(trainer.num_val_batches) else 0
        self.warm_up = WARM_UP + 2 * int(getattr(trainer.train_dataloader, "num_workers", 0))
        self.began = self.since = time.perf_counter()
        self.seen = self.epochs_seen = 0  # images, epochs
        self.timed: list[tuple[float, int]] = []  # seconds, images
        self.first_waits: list[float] = []  # for the first batch of an epoch
        self.ends: list[float] = []  # of an epoch, beside its validation: checkpoints, logs
        self.validated_in: list[tuple[float, float]] = []  # seconds of a validation, and what of it was left out

    def epoch_began(self) -> None:
        if self.epochs_seen:
            self.epoch_ended()
        self.epochs_seen += 1
        self.since = time.perf_counter()

    def first_batch_came(self) -> None:
        self.first_waits.append(time.perf_counter() - self.since)

    def batch_done(self, pictures: int, batch_idx: int) -> None:
        now = time.perf_counter()
        self.seen += pictures
        if self.warm_up > 0 and now - self.began < LONGEST:
            self.warm_up -= 1
        elif batch_idx or self.batches == 1:
            self.timed.append((now - self.since, pictures))
        self.since = now

    def validated(self, loop: Beginning) -> None:
        now = time.perf_counter()
        self.validated_in.append((now - loop.times[0], loop.left_out))
        self.since += now - loop.times[0]

    def epoch_ended(self) -> None:
        self.ends.append(time.perf_counter() - self.since)

    def enough(self) -> bool:
        if len(self.timed) < max(STEPS, 2 * self.accumulate):
            return False
        return sum(seconds for seconds, _ in self.timed) >= SECONDS or time.perf_counter() - self.began >= LONGEST

    @property
    def batch_seconds(self) -> float:
        """Seconds that a whole batch takes."""
        return sum(s for s, _ in self.timed) / max(sum(n for _, n in self.timed), 1) * self.batch_size

    @property
    def epoch_seconds(self) -> float:
        """What an epoch takes beside its batches and its validation. The first one makes worker processes and files anew."""
        return _later(self.first_waits) + _later(self.ends)

    @property
    def validation_seconds(self) -> float:
        return _later([spent + left for spent, left in self.validated_in])

    def left_out(self) -> dict[str, float]:
        unseen = max(self.validations - len(self.validated_in), 0)
        return {
            "training": max(self.pictures - self.seen, 0) / self.batch_size * self.batch_seconds,
            "validation": unseen * self.validation_seconds + sum(left for _, left in self.validated_in),
            "epochs": max(self.epochs - self.epochs_seen, 0) * self.epoch_seconds,
        }

    def figures(self) -> dict[str, float]:
        in_batches = self.pictures / self.batch_size * self.batch_seconds
        return {
            "batches": self.batches,
            "steps": self.steps,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "seconds/step": self.batch_seconds * self.accumulate,
            "seconds/training": in_batches,
            "seconds/validation": self.validations * self.validation_seconds,
            "seconds/epochs": self.epochs * self.epoch_seconds,
        }


def _later(values: list[float]) -> float:
    """The mean without the first one, where there are others."""
    kept = values[1:] or values
    return sum(kept) / max(len(kept), 1)


def total(counts: Any) -> int:
    """The number of batches of all loaders together."""
    return sum(int(count) for count in (counts if isinstance(counts, list) else [counts]))

"""Run the frozen front of the model once an image, and train the rest on what it gives."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from visionlora.backbone.head import example_batch
from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.common.files import naming
from visionlora.common.memory import available_memory
from visionlora.data.batches import CachedFeatures
from visionlora.data.config import DataConfig
from visionlora.data.every_view import ViewData, all_predicted
from visionlora.data.module import Batch, ImageData
from visionlora.runs.config import TrainConfig
from visionlora.speed.prefix import Front
from visionlora.tasks.placed import PlacedTask

MOST_VIEWS = 4
"""Of an image, by default; each costs a forward pass of the front, and room."""

SHARE = 0.25
"""Of the free memory, or of the free space on the disk, that ``data.cache=auto`` takes at most."""


@contextmanager
def cached(config: TrainConfig, trainer: L.Trainer, model: nn.Module, data: ImageData) -> Iterator[Front | None]:
    """A context in which ``data`` gives cached features in place of training and validation images, where that is possible. The
    front that it yields makes the model's outputs of them.

    Raises:
        UserError: ``data.cache`` asks for it, and it cannot be; the message says why.
    """
    where = config.data.cache
    if where == "auto" and isinstance(data.task, PlacedTask):
        where = "off"  # views move the labels with the images, and those of features cannot be moved
    if where == "off":
        yield None
        return
    try:
        if isinstance(data.task, PlacedTask):
            raise UserError("views move masks and boxes with the images")
        front = _front(config, trainer, model)
        views = _views(config)
        shape, dtype = _one_image(front, trainer, model)
        parts = [part for part in ("train", "val") if part in data.parts]
        counts = {part: (views if part == "train" else 1) * len(data.parts[part]) for part in parts}
        size = sum(counts.values()) * shape.numel() * dtype.itemsize
        where = _place(where, size)
    except UserError as error:
        if where != "auto":
            raise UserError(f"data.cache={where}: nothing can be cached, {error}.") from None
        console.print(f"data.cache=auto is off: {error}.", highlight=False)
        yield None
        return
    what = f"{len(data.parts['train']):,} training images{f' in {views} views' if views > 1 else ''}"
    console.print(f"data.cache: {what}, run up to {front.name} once, {size / 2**20:,.0f} MiB {_WHERE[where]}.", highlight=False)
    with tempfile.TemporaryDirectory(prefix="visionlora-") as folder:
        filled: dict[str, CachedFeatures] = {}
        for part in parts:
            shown = views if part == "train" else 1
            file = str(Path(folder, part)) if where == "disk" else None
            bank = _room((shown, len(data.parts[part]), *shape), dtype, file)
            for view in range(shown):
                collector = Collector(front, bank[view])
                trainer.predict(collector, ViewData(data, part, view if part == "train" else None), return_predictions=False)
                data.leave_out(part)  # every image has been opened by now
                if collector.done != len(data.parts[part]):
                    raise UserError(f"images of the {part} part changed while they were read: some could be read at times; start again.")
            filled[part] = CachedFeatures(bank[:, : len(data.parts[part])], data.task.tensor(data.parts[part].labels))
        data.cached = filled  # all parts at once: from now on every batch is of features
        try:
            yield front
        finally:
            data.cached = {}


class Collector(L.LightningModule):
    """Writes the features of images that come in order into ``bank (N, ...)``."""

    def __init__(self, front: Front, bank: Tensor) -> None:
        super().__init__()
        self.model, self.front, self.bank, self.done = front.model, front, bank, 0

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, _ = batch
        dtype = next(self.model.parameters()).dtype
        features = self.front.features(images.to(dtype, memory_format=torch.channels_last))
        self.bank[self.done : self.done + len(features)] = features.to(self.bank.device)
        self.done += len(features)
        return features[:0]  # Lightning warns of None


_WHERE = {"memory": "in memory", "disk": "on the disk while it trains"}


def _front(config: TrainConfig, trainer: L.Trainer, model: nn.Module) -> Front:
    if config.model.checkpointing == "blocks":
        raise UserError("model.checkpointing=blocks computes blocks again from their inputs")
    if config.data.mixup or config.data.cutmix:
        raise UserError("data.mixup and data.cutmix mix images")
    if config.data.progressive is not None:
        raise UserError("data.progressive shows images in several sizes")
    if config.data.repeats > 1:
        raise UserError("data.repeats asks for several views an epoch")
    if not all_predicted(trainer):
        raise UserError("trainer.limit_predict_batches or trainer.fast_dev_run leaves images out")
    if trainer.world_size > 1:
        raise UserError("several processes would each need all of it")
    if getattr(trainer, "overfit_batches", 0):
        raise UserError("trainer.overfit_batches takes images of its own")
    return Front(model, example_batch(model))


def _views(config: TrainConfig) -> int:
    """The number of views that are cached: as many as there are epochs where images are augmented, up to ``MOST_VIEWS``."""
    if config.data.cache_views is not None:
        return config.data.cache_views
    epochs = config.trainer.get("max_epochs") or MOST_VIEWS
    return min(epochs if epochs > 0 else MOST_VIEWS, MOST_VIEWS) if _augments(config.data) else 1


def _augments(data: DataConfig) -> bool:
    return bool(data.hflip or data.crop or data.randaugment or data.color_jitter or data.random_erasing or data.transform)


def _one_image(front: Front, trainer: L.Trainer, model: nn.Module) -> tuple[torch.Size, torch.dtype]:
    """Shape and type of one image's features, at the precision of the run."""
    bank: list[Tensor] = []

    class OneImage(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            bank.append(front.features(batch.to(next(self.model.parameters()).dtype)))
            return bank[0][:0]

    images: Any = [example_batch(model)[0].cpu()]
    trainer.predict(OneImage(), DataLoader(images, batch_size=1), return_predictions=False)
    return bank[0].shape[1:], bank[0].dtype


def _place(where: str, size: int) -> str:
    memory, disk = available_memory(), shutil.disk_usage(tempfile.gettempdir()).free
    if where == "auto":
        where = "memory" if size < SHARE * memory else "disk" if size < SHARE * disk else ""
        if not where:
            raise UserError(f"{size / 2**20:,.0f} MiB of features are more than a quarter of the free memory and of the free disk")
    if size > (memory if where == "memory" else disk):
        place = "memory" if where == "memory" else f"{tempfile.gettempdir()} (set TMPDIR for another disk)"
        raise UserError(f"{size / 2**20:,.0f} MiB of features do not fit in {place}; set data.cache_views lower")
    return where


def _room(shape: tuple[int, ...], dtype: torch.dtype, file: str | None) -> Tensor:
    """An empty tensor of that shape, in memory or mapped from a new file."""
    if file is None:
        return torch.empty(shape, dtype=dtype)
    count = torch.Size(shape).numel()
    with naming(Path(file)), open(file, "wb") as stream:  # all of it now: a page that finds no room later ends the process without a word
        if reserve := getattr(os, "posix_fallocate", None):
            reserve(stream.fileno(), 0, count * dtype.itemsize)
    return torch.from_file(file, shared=True, size=count, dtype=dtype).view(shape)

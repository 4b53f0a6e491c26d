"""The one DataModule."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from visionlora.backbone.info import Preprocessing, info_of
from visionlora.common.errors import UserError
from visionlora.data.batches import CachedFeatures, EpochBatches, MemoryImages
from visionlora.data.config import USUAL_CROP, DataConfig
from visionlora.data.decoded import Decoded
from visionlora.data.files import find_images
from visionlora.data.first_look import checked, into_memory
from visionlora.data.images import Images, Unreadable
from visionlora.data.loading import EpochSampler, LateLoader, OneView, TransformedImages, draws, file_loader
from visionlora.data.pruning import Pruning, Shown
from visionlora.data.sources.load import load_source
from visionlora.data.split import complete, folds_of, recorded
from visionlora.data.transforms import (
    BatchTransform,
    Transform,
    eval_batch_transform,
    eval_transform,
    for_data,
    normalize,
    train_batch_transform,
    train_transform,
)
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.registry import kind_of, make_task

Batch = tuple[Tensor, Tensor]
"""Images, or cached features in their place, and targets."""


USUAL_BATCH = 64
"""What ``data.batch_size=null`` is until the recipe has chosen."""


class ImageData(L.LightningDataModule):
    """Images of one source as batches ``(float32 (N, C, H, W), targets (N, ...))``: for the usual task, classes int64 ``(N,)``.

    Args:
        config: source, split, batch size, augmentation.
        seed: of the run: order and augmentation.
        record: split of an earlier run to go by (``split.json``), or ``None`` to make it.
        task: section ``task`` of a config, or a task's name: what the labels are; by default classes.

    Raises:
        UserError: see ``sources.load_source`` and ``split.complete``.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int = 0,
        record: Mapping[str, list[str]] | None = None,
        task: Mapping[str, Any] | str | None = None,
    ) -> None:
        super().__init__()
        kind = kind_of(task)
        source = load_source(config, kind)
        if kind.whole_view and config.crop_scale in ("auto", [*USUAL_CROP]):  # the numbers are of runs that were made before there was auto
            config = replace(config, crop_scale=None)
        if config.image_size is None and source.image_size is not None:
            config = replace(config, image_size=source.image_size)
        self.config, self.seed = config, seed
        self.task = make_task(task, source.classes)
        self.task.check_names(f"data={config.name}")
        self.object_share = None if source.image_size else source.object_share  # of a source that knows the size, it is not asked for
        self.folders = source.folders or source.classes  # what the classes are called where they come from
        self.record: dict[str, list[str]]
        if record:
            self.parts, self.record = recorded(source, record), dict(record)
        else:
            self.parts, self.record = complete(source, config, self.task)
        self._show_the_task()
        self.folds, self.why_not_folds = folds_of(self.parts, config, self.task)  # in place of a validation part
        self.names = {part: pictures.names for part, pictures in self.parts.items()}  # of all, readable or not
        self.unreadable: Unreadable = {}  # what has been found so far
        self.batch_size = config.batch_size or USUAL_BATCH  # an attribute: the recipe and Lightning's finder change it
        self.preprocessing: Preprocessing | None = None
        self.cached: dict[str, CachedFeatures] = {}
        self.pruning: Pruning | None = None  # while a training leaves images out
        if config.decoded is not None and isinstance(self.task, PlacedTask):
            raise UserError(f"data.decoded keeps no images of task={self.task.name}, whose labels lie in them; leave it out.")
        self.decoded = Decoded.of(config.decoded, config.decoded_gb)

    def _show_the_task(self) -> None:
        """Show the task the labels that it is to learn, and tell it how many training images each of its groups has.

        Raises:
            UserError: the labels are none of the task's, or it cannot balance as ``data.balance`` asks.
        """
        labels, balance = self.parts["train"].labels, self.config.balance
        self.task.look_at(labels)
        groups = self.task.groups(labels)
        if groups is not None:
            counts = Counter(groups)
            self.task.counts = [counts[group] for group in self.task.every_group(labels)]
        if balance != "none" and balance not in self.task.balances:
            other = f"it takes {', '.join(self.task.balances)}" if self.task.balances else "leave it out"
            raise UserError(f"data.balance={balance} is nothing that task={self.task.name} can do; {other}.")
        self.task.balance = balance

    @property
    def classes(self) -> list[str]:
        """Names of the model's outputs, in order."""
        return self.task.names

    def setup(self, stage: str) -> None:
        """Lightning's own: where ``prepare_for`` has not been called, prepare for the backbone that the Trainer is given.

        Raises:
            UserError: that backbone does not say how it wants its images.
        """
        if self.preprocessing is not None:
            return
        model = getattr(getattr(self.trainer, "lightning_module", None), "model", None)
        info = info_of(model) if isinstance(model, nn.Module) else None
        if info is None:
            raise UserError(
                "the data does not know how the model wants its images; make that with vl.create_backbone, or call prepare_for."
            )
        self.task.meet(info.spec)
        info.preprocessing = self.prepare_for(info.preprocessing)

    def prepare_for(self, preprocessing: Preprocessing, check: bool = False) -> Preprocessing:
        """Take over what the backbone wants; returns it as this data will be prepared.

        Images that cannot be read are noted and left out: at once where they are few and small enough to be kept in memory or,
        with ``check``, to be decoded all; else when their turn comes. So it is with masks and boxes that do not fit their image.

        Raises:
            UserError: images cannot be read or augmented with that many channels.
        """
        self.preprocessing = for_data(preprocessing, self.config, isinstance(self.task, PlacedTask))
        self._train_transform = train_transform(self.preprocessing, self.config)
        self._train_batch_transform = train_batch_transform(self.preprocessing, self.config)
        channels, detail = self.preprocessing.channels, eval_transform(self.preprocessing).detail
        fits = self.task.placed if isinstance(self.task, PlacedTask) else None
        for part, pictures in self.parts.items():
            held = into_memory(pictures, channels, self.unreadable)
            self.parts[part] = checked(held, channels, detail, self.unreadable, fits=fits) if check else held
        return self.preprocessing

    def crop(self, scale: list[float] | None) -> Preprocessing:
        """Take random crops of these shares of an image from now on, ``None``: the whole image; returns how images are prepared with it.

        Raises:
            RuntimeError: ``prepare_for`` has not been called.
        """
        self.config = replace(self.config, crop_scale=scale)
        return self.prepare_for(self._ready())

    def readable(self, part: str) -> Images:
        """The images of a part but those that have been found to be unreadable."""
        return self.parts[part].without(self.unreadable)

    def unreadable_in(self, part: str) -> Unreadable:
        """The images of a part that have been found to be unreadable, and why."""
        return {name: self.unreadable[name] for name in self.names[part] if name in self.unreadable}

    def leave_out(self, part: str) -> None:
        """Make up batches of ``readable(part)`` from now on. Called only at moments at which a resumed run has found the same images
        unreadable.
        """
        self.parts[part] = self.readable(part)

    def try_again(self, pictures: Images) -> None:
        """Open these, and note which cannot be read."""
        checked(pictures, self._ready().channels, eval_transform(self._ready()).detail, self.unreadable, most=None)

    def names_of(self, epoch: int, batch_idx: int) -> list[str]:
        """What tells the images of this process's training batch from others: paths below the root, or positions."""
        indices, _ = Shown(self.in_training(), self.batch_size).of(epoch, batch_idx)
        return [self.parts["train"].names[index] for index in indices]

    def train_dataloader(self) -> DataLoader[Any]:
        """Random views in a new order each epoch."""
        if "train" in self.cached:
            return self._batches(self.cached["train"], self.in_training())
        return self._train_loader(self.in_training())

    def in_training(self) -> EpochSampler:
        """The order of training: every image once an epoch; as many draws, where images have weights, in proportion to them, and with
        ``data.balance=sampler`` every group as often.
        """
        train = self.parts["train"]
        weights = draws(train.weights, self.task.groups(train.labels) if self.config.balance == "sampler" else None)
        skipped = None if self.pruning is None else self.pruning.skipped
        return EpochSampler(len(train), self.seed, True, weights, self.config.repeats, skipped)

    def view_dataloader(self, part: str, view: int | None) -> DataLoader[Any]:
        """The images in order, as epoch ``view`` shows them in training; ``None`` as an evaluation does."""
        return self.eval_dataloader(part) if view is None else self._train_loader(OneView(len(self.parts[part]), self.seed, view))

    def eval_dataloader(self, part: str) -> DataLoader[Any]:
        """One view of each image, in order."""
        if part not in self.parts:
            raise UserError(f"the data has no {part} part; it has {', '.join(self.parts)}.")
        return self._eval_loader(self.parts[part])

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if "val" in self.cached:
            return self._batches(self.cached["val"], EpochSampler(len(self.cached["val"]), self.seed, shuffle=False))
        return self.eval_dataloader("val") if "val" in self.parts else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self.eval_dataloader("test") if "test" in self.parts else []

    def sample_dataloader(self, per_group: int) -> DataLoader[Any]:
        """Evaluation views of the first ``per_group`` training images of each group of the task (class), the groups in turn; where the task
        has no groups, of images spread evenly over the part, as many for each output.
        """
        train = self.parts["train"]
        groups = self.task.groups(train.labels)
        if groups is None:
            return self._eval_loader(train.subset(range(0, len(train), max(len(train) // (per_group * self.task.outputs), 1))))
        seen: Counter[int] = Counter()
        turns = []
        for index, group in enumerate(groups):
            seen[group] += 1
            if seen[group] <= per_group:
                turns.append((seen[group], index))
        return self._eval_loader(train.subset([index for _, index in sorted(turns)]))

    def reference_batches(self, folder: Path, most: int) -> list[Batch]:
        """Up to ``most`` images below a folder, evenly spread over it, prepared as for evaluation; their targets mean nothing.

        Raises:
            UserError: there are none that can be read.
        """
        paths = find_images(folder, "lora.reference")
        paths = paths[:: max(len(paths) // most, 1)][:most]
        unreadable: Unreadable = {}
        label = None if isinstance(self.task, PlacedTask) else self.parts["train"].labels[0]
        loader = self._eval_loader(Images([label] * len(paths), [str(p) for p in paths], paths), unreadable)
        batches = [self.on_after_batch_transfer(batch, 0) for batch in loader]
        if unreadable:
            said = f"lora.reference={folder}: {len(unreadable)} of {len(paths)} images cannot be read, {next(iter(unreadable))} for one"
            if not batches:
                raise UserError(f"{said}.")
            print(f"{said}; they are left out.", file=sys.stderr)
        return batches

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, targets = batch
        return (images if self.cached else normalize(images, self._ready())), targets  # while there is a cache, all batches are from it

    def _ready(self) -> Preprocessing:
        if self.preprocessing is None:
            raise RuntimeError("call prepare_for(preprocessing of the backbone) first")
        return self.preprocessing

    def _train_loader(self, sampler: EpochSampler) -> DataLoader[Any]:
        return self._loader(self.parts["train"], self._train_transform, self._train_batch_transform, sampler)

    def _eval_loader(self, pictures: Images, unreadable: Unreadable | None = None) -> DataLoader[Any]:
        ready, sampler = self._ready(), EpochSampler(len(pictures), self.seed, False)
        return self._loader(pictures, eval_transform(ready), eval_batch_transform(ready), sampler, unreadable)

    def _loader(
        self,
        pictures: Images,
        each: Transform,
        batched: BatchTransform | None,
        sampler: EpochSampler,
        unreadable: Unreadable | None = None,
    ) -> DataLoader[Any]:
        channels = self._ready().channels
        overfits = getattr(self.trainer, "overfit_batches", 0)  # Lightning then puts a sampler of images in
        # Pillow resizes transparent images in a way of its own.
        placed = self.task if isinstance(self.task, PlacedTask) else None
        if pictures.in_memory and batched is not None and channels != 4 and not overfits and placed is None:
            return self._batches(MemoryImages(pictures, self.task.tensor(pictures.labels), batched, channels), sampler)
        noted = self.unreadable if unreadable is None else unreadable
        dataset = TransformedImages(pictures, each, channels, self.task.tensor, noted, placed, self.decoded)
        return file_loader(dataset, sampler, self.batch_size, self._workers(pictures))

    def _batches(self, dataset: Dataset[Any], sampler: EpochSampler) -> DataLoader[Any]:
        return LateLoader(dataset, sampler=EpochBatches(sampler, self.batch_size), batch_size=None, generator=torch.Generator())

    def _workers(self, pictures: Images) -> int:
        if self.config.num_workers is not None:
            return self.config.num_workers
        return 0 if pictures.in_memory else min(8, max(1, torch.get_num_threads() // 2))

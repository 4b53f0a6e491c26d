"""``vl.fit``: train a model on data of one's own, without a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, Dataset

from visionlora.backbone.info import info_of
from visionlora.common.errors import UserError
from visionlora.common.files import folder_inside
from visionlora.common.process_state import process_as_before
from visionlora.data.module import ImageData
from visionlora.lora.config import LoraConfig
from visionlora.model.adapters import adapter_names
from visionlora.model.inject import inject
from visionlora.model.saving import save_adapter
from visionlora.runs.config import OptimConfig
from visionlora.tasks.metrics import Metrics
from visionlora.tasks.task import Loss, Task
from visionlora.training.classifier import Classifier
from visionlora.training.module import TaskModule

Data = L.LightningDataModule | DataLoader | Dataset


@dataclass(frozen=True)
class Fit:
    """A finished ``vl.fit``.

    Args:
        module: what was trained; ``module.model`` is the model.
        trainer: that trained it.
        metrics: the last ``train/loss``, ``val/*`` of the last validation and ``test/*``, as far as there are such data.
    """

    module: TaskModule
    trainer: L.Trainer
    metrics: dict[str, float]


@process_as_before()
def fit(
    model: nn.Module,
    data: Data,
    val: DataLoader | Dataset | None = None,
    test: DataLoader | Dataset | None = None,
    *,
    lora: LoraConfig | None = None,
    optim: OptimConfig | None = None,
    epochs: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    folder: str | Path | None = None,
    loss: Loss | None = None,
    metrics: Metrics | None = None,
    task: Task | None = None,
    callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> Fit:
    """Fine-tune ``model`` in place with LoRA on any ``Dataset``, ``DataLoader`` or ``LightningDataModule``.

    ::

        model = vl.create_backbone("timm/resnet18", num_classes=10)
        fitted = vl.fit(model, train_set, val=val_set, epochs=3, folder="flowers")
        print(fitted.metrics["val/top1"])

    Args:
        model: a classifier, ``(N, C, H, W) -> (N, classes)``; adapters are injected unless ``vl.inject`` has done so.
        data: what is trained on; items or batches are ``(image, label)``, images as the model wants them. A data module has its own parts.
        val: measured after each epoch.
        test: measured at the end.
        lora: see ``vl.LoraConfig``; for a model that is adapted already it is left out.
        optim: optimizer, schedule and learning rate, see ``vl.OptimConfig``.
        epochs: how often the data are gone through.
        batch_size: of a ``Dataset``; a ``DataLoader`` has its own.
        seed: of the adapters, the order of a ``Dataset`` and dropout.
        folder: where the adapter is saved at the end (``vl.load_adapter`` reads it); nothing is written without it.
        loss: ``(logits, labels) -> `` one number; by default the task's, which is cross-entropy for classes.
        metrics: torchmetrics in addition to ours, see ``vl.Classifier``.
        task: what the outputs are for; by default one class an image.
        callbacks: Lightning's or your own.
        **trainer: anything ``lightning.Trainer`` takes, such as ``precision="bf16-mixed"`` or ``logger=…``.

    Returns:
        The module, its trainer and the metrics. The process is left as it was, its random states too.

    Raises:
        UserError: the model, the labels or the arguments do not go together.
    """
    if isinstance(data, L.LightningDataModule) and not (val is None and test is None):
        raise UserError("a LightningDataModule has its own validation and test data; leave val and test out.")
    if lora is not None and adapter_names(model):
        raise UserError("the model has adapters already; leave lora out, or take them away with vl.remove(model).")
    place = _place(folder) if folder is not None else None  # before the training: what is in its way would lose it
    L.seed_everything(seed, verbose=False)
    if not adapter_names(model):
        inject(model, lora or LoraConfig())
    module = _module(model, task, optim, seed, loss, metrics)
    usual: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "max_epochs": epochs}
    runner = L.Trainer(**usual | trainer, callbacks=list(callbacks))
    found = _trained(runner, module, data, val, batch_size)
    model.eval()
    if place is not None:  # before the test, which may fail
        save_adapter(model, place, extra={"metrics": found})
    tested = _tested(runner, module, data, test, batch_size)
    model.eval()
    if place is not None and tested:
        save_adapter(model, place, extra={"metrics": found | tested})
    return Fit(module, runner, found | tested)


def _module(
    model: nn.Module, task: Task | None, optim: OptimConfig | None, seed: int, loss: Loss | None, metrics: Metrics | None
) -> TaskModule:
    if task is None:
        return Classifier(model, optim=optim, seed=seed, loss=loss, metrics=metrics)
    if info := info_of(model):  # what is saved knows what the outputs are for
        task.meet(info.spec)
        info.task, info.classes = task.section(), task.names
    return TaskModule(model, task, optim=optim, seed=seed, loss=loss, metrics=metrics)


def _trained(runner: L.Trainer, module: TaskModule, data: Data, val: DataLoader | Dataset | None, batch_size: int) -> dict[str, float]:
    """Train; what was logged."""
    if isinstance(data, L.LightningDataModule):
        runner.fit(module, datamodule=data)
    else:
        runner.fit(module, _loader(data, batch_size, shuffle=True), None if val is None else _loader(val, batch_size))
    return _numbers(runner)


def _tested(runner: L.Trainer, module: TaskModule, data: Data, test: DataLoader | Dataset | None, batch_size: int) -> dict[str, float]:
    """Test where there are such data; what was logged."""
    if isinstance(data, L.LightningDataModule):
        without = isinstance(data, ImageData) and "test" not in data.parts
        if without or type(data).test_dataloader is L.LightningDataModule.test_dataloader:
            return {}
        runner.test(module, datamodule=data, verbose=False)
    elif test is None:
        return {}
    else:
        runner.test(module, _loader(test, batch_size), verbose=False)
    return _numbers(runner)


def _place(folder: str | Path) -> Path:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return folder_inside(Path(folder), "adapter")
    except OSError as error:
        raise UserError(f"folder={folder} cannot be made ({error.strerror}); name another one.") from None


def _loader(data: DataLoader | Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
    return data if isinstance(data, DataLoader) else DataLoader(data, batch_size, shuffle=shuffle)


def _numbers(trainer: L.Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith(("train/loss", "val/", "test/"))}

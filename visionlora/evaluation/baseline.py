"""How good the untouched backbone is: what its frozen features tell without a step of training."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from visionlora.data.module import Batch, ImageData
from visionlora.tasks.interfaces import Baseline
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.task import Task


class BaselineData(L.LightningDataModule):
    """A sample of the training images for the baseline to learn from, and the test part."""

    def __init__(self, data: ImageData, per_group: int) -> None:
        super().__init__()
        self.data, self.per_group = data, per_group

    def val_dataloader(self) -> DataLoader[Any]:
        return self.data.sample_dataloader(self.per_group)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self.data.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


class FrozenFeatures(L.LightningModule):
    """Validate on a sample of the training images, then test: ``test_before/*``.

    Features are what enters the head, flattened or averaged over space.

    Args:
        model: the backbone.
        head: name of its head.
        task: what is measured.
        baseline: the task's.
    """

    def __init__(self, model: nn.Module, head: str, task: Task, baseline: Baseline) -> None:
        super().__init__()
        self.model, self.baseline = model, baseline
        self.features: list[Tensor] = []
        self._hook = model.get_submodule(head).register_forward_pre_hook(self._catch)
        self.evaluation = Evaluation(task, "test_before")
        self.ready = False  # whether the baseline has learnt

    def close(self) -> None:
        """Leave the backbone as it was."""
        self._hook.remove()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        features = self._features(images)  # (N, D)
        with torch.autocast(features.device.type, enabled=False):  # a variance from rounded squares would be noise
            self.baseline.learn(features, targets)

    def on_validation_epoch_end(self) -> None:
        totals = self.baseline.totals()
        if totals is not None:  # else none of the sample can be read
            self.baseline.settle(self.trainer.strategy.reduce(totals, reduce_op="sum"))  # of all processes
            self.ready = True

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        features = self._features(images)
        with torch.autocast(features.device.type, enabled=False):
            self.evaluation.update(self.baseline.predict(features), targets)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.evaluation.compute(), logger=False, sync_dist=True)

    def _features(self, images: Tensor) -> Tensor:
        self.features.clear()
        self.model(images.to(next(self.model.parameters()).dtype))
        features = self.features[0].to(torch.float32 if images.device.type == "mps" else torch.float64)
        return features.mean((2, 3)) if features.ndim == 4 and features.shape[1] != 1 else features.flatten(1)

    def _catch(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features.append(inputs[0].detach())

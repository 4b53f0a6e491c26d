"""How good the untouched backbone is: the nearest class mean on its frozen features."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from visionlora.data.module import Batch, ImageData
from visionlora.tasks.metrics import Evaluation


class BaselineData(L.LightningDataModule):
    """A sample of the training pictures to take the means of, and the test part."""

    def __init__(self, data: ImageData, per_class: int) -> None:
        super().__init__()
        self.data, self.per_class = data, per_class

    def val_dataloader(self) -> DataLoader[Any]:
        return self.data.sample_dataloader(self.per_class)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.data.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


class NearestClassMean(L.LightningModule):
    """Validate on a sample of the training pictures, then test: ``test_before/*`` without a step of training.

    The logits are those of Gaussians around the class means with one shared variance, ``-|f - μ|² / 2σ²``, so that the loss is
    a likelihood too. Features are what enters the head, flattened or averaged over space.

    Args:
        model: the backbone.
        head: name of its classifier.
        num_classes: number of classes.
    """

    def __init__(self, model: nn.Module, head: str, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.features: list[Tensor] = []
        self._hook = model.get_submodule(head).register_forward_pre_hook(self._catch)
        self.evaluation = Evaluation(num_classes, "test_before")
        self.totals: Any = 0
        self.means, self.variance = torch.zeros(0), torch.ones(())

    @property
    def ready(self) -> bool:
        """Whether the means have been taken."""
        return self.means.ndim == 2

    def close(self) -> None:
        """Leave the backbone as it was."""
        self._hook.remove()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        features = self._features(images)  # (N, D)
        one_hot = nn.functional.one_hot(labels, self.num_classes).to(features.dtype)
        with torch.autocast(features.device.type, enabled=False):  # a variance from rounded squares would be noise
            # Per class: sum of the features, number of pictures, sum of the squares.
            self.totals += torch.cat([one_hot.T @ features, one_hot.sum(0)[:, None], one_hot.T @ features.square().sum(1, keepdim=True)], 1)

    def on_validation_epoch_end(self) -> None:
        if isinstance(self.totals, int):  # none of the sample can be read
            return
        totals: Tensor = self.trainer.strategy.reduce(self.totals, reduce_op="sum")  # of all processes
        sums, counts, squares = totals[:, :-2], totals[:, -2:-1], totals[:, -1:]
        self.means = sums / counts.clamp(min=1)
        within = squares.sum() - (counts * self.means.square()).sum()
        self.variance = (within / (counts.sum() * self.means.shape[1])).clamp(min=1e-12)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        features = self._features(images)
        with torch.autocast(features.device.type, enabled=False):
            distances = torch.cdist(features, self.means).square()
        self.evaluation.update(-distances / (2 * self.variance), labels)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.evaluation.compute(), logger=False, sync_dist=True)

    def _features(self, images: Tensor) -> Tensor:
        self.features.clear()
        self.model(images.to(next(self.model.parameters()).dtype))
        features = self.features[0].to(torch.float32 if images.device.type == "mps" else torch.float64)
        return features.mean((2, 3)) if features.ndim == 4 and features.shape[1] != 1 else features.flatten(1)

    def _catch(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features.append(inputs[0].detach())

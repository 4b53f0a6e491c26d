"""After the training: options of the task that images which were not trained on choose, such as thresholds."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import torch
from torch import Tensor

from visionlora.common.console import console
from visionlora.data.every_view import ViewData
from visionlora.data.module import Batch, ImageData
from visionlora.tasks.task import Task
from visionlora.training.adapted import Adapted
from visionlora.training.kept import Strength
from visionlora.training.module import TaskModule


def settle(trainer: L.Trainer, adapted: Adapted, module: TaskModule, data: ImageData, strength: Strength | None) -> None:
    """Give the task the options that held-out images choose: those of cross-validation where there are folds, else the validation part.

    Args:
        trainer: that has trained it.
        adapted: the model, whose card is to say so.
        module: the same, with its task.
        data: its images.
        strength: what cross-validation chose; ``None`` without folds.
    """
    task = data.task
    if type(task).settle is Task.settle:
        return
    chosen = None if strength is None else strength.settled
    if chosen is None and "val" in data.parts and trainer.world_size == 1:
        chosen = task.settle(*outputs_for(trainer, module, data, "val"))
    if chosen is None:
        why = "there is no validation part" if "val" not in data.parts else "several processes train"
        console.print(f"task={task.name}: nothing is chosen by images held out, as {why}.", highlight=False, markup=False)
        return
    task.options = replace(task.options, **chosen)
    adapted.info.task = task.section()


def outputs_for(trainer: L.Trainer, module: TaskModule, data: ImageData, part: str) -> tuple[Tensor, Tensor]:
    """What the model gives for every image of a part, unaugmented, as ``Task.condensed`` keeps it, float32 ``(N, ...)`` on the CPU, with
    targets ``(N, ...)``.
    """
    rows = _Outputs(module)
    trainer.predict(rows, ViewData(data, part), return_predictions=False)
    return torch.cat(rows.outputs), data.task.joined(rows.targets)


class _Outputs(L.LightningModule):
    def __init__(self, module: TaskModule) -> None:
        super().__init__()
        self.module, self.outputs, self.targets = module, list[Tensor](), list[Tensor]()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        self.outputs.append(self.module.task.condensed(self.module(images).float().cpu()))
        self.targets.append(targets.cpu())
        return targets[:0]  # Lightning warns of None

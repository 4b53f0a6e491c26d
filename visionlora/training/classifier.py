"""``vl.Classifier``: the LightningModule of one class an image, for a Trainer of one's own."""

from __future__ import annotations

from torch import nn

from visionlora.backbone.head import count_outputs
from visionlora.common.errors import UserError
from visionlora.lora.config import LoraConfig
from visionlora.runs.config import OptimConfig
from visionlora.tasks.metrics import Metrics
from visionlora.tasks.registry import USUAL, make_task
from visionlora.tasks.task import Loss, Task
from visionlora.training.module import TaskModule


class Classifier(TaskModule):
    """Trains a classifier: ``vl.Classifier(model)`` is enough.

    A batch is ``(images (N, C, H, W), labels int64 (N,))``. Logged are ``train/loss``, and of validation and test the loss, ``top1``,
    ``f1``, ``top5`` where there are more than five classes, and ``metrics``, as ``val/NAME`` and ``test/NAME``.

    Args:
        model: after ``vl.inject``; ``(N, C, H, W) -> (N, num_classes)``.
        num_classes: number of logits; by default as many as the model's head gives.
        optim: see ``TaskModule``, as for what follows.
        head: names of the head's modules.
        seed: of the run.
        lora: what adaptation asks of the loss and the optimizer.
        halve: whether memory that gives out halves the number of images at a time.
        loss: ``(logits, labels) -> `` one number; by default cross-entropy.
        metrics: torchmetrics by name, or a ``MetricCollection``, beside ours.
        task: with names for the classes; by default they are numbered.

    Raises:
        UserError: ``metrics`` are none, ``loss`` is given beside ``optim.label_smoothing``, or ``num_classes`` is not ``task``'s.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int | None = None,
        optim: OptimConfig | None = None,
        head: tuple[str, ...] | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
        halve: bool = False,
        *,
        loss: Loss | None = None,
        metrics: Metrics | None = None,
        task: Task | None = None,
    ) -> None:
        if task is not None and num_classes not in (None, task.outputs):
            raise UserError(f"num_classes={num_classes}, but task has {task.outputs} names; leave one of the two out.")
        if task is None:
            outputs = count_outputs(model) if num_classes is None else num_classes
            task = make_task(USUAL, [str(number) for number in range(outputs)])
        super().__init__(model, task, optim, head, seed, lora, halve, loss=loss, metrics=metrics)

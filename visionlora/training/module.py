"""The LightningModule: a model with its task, loss, metrics and optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from visionlora.backbone.freeze import moves_statistics
from visionlora.backbone.head import example_batch, find_head
from visionlora.common.errors import UserError
from visionlora.common.finite import all_finite, first_not_finite
from visionlora.common.portions import Portions, loss_with_gradients
from visionlora.common.text import first_of
from visionlora.data.loading import mixed_seed
from visionlora.data.module import Batch, ImageData
from visionlora.lora.config import LoraConfig
from visionlora.lora.regularization import regularization
from visionlora.model.layout import asked
from visionlora.runs.config import OptimConfig, usual_rate
from visionlora.speed.prefix import Front
from visionlora.tasks.metrics import Evaluation, Metrics, one_number
from visionlora.tasks.task import Loss, Task
from visionlora.training.averaging import Average
from visionlora.training.checkpointed import Checkpointed
from visionlora.training.growing import Growth
from visionlora.training.mixing import Mix
from visionlora.training.optimizer import build_optimizer, build_schedule, parameter_groups
from visionlora.training.pruned import PrunedLoss

MIXING = 0x6D6978
"""In seeds of what is mixed, so that they are no others."""
SHOWN = 8
"""Files of a batch that a sentence names."""
CURE = "Lower optim.lr or lora.alpha, or set trainer.gradient_clip_val=1; the checkpoint before stands."


class TaskModule(Checkpointed):
    """Trains what ``model`` has left trainable for a task, with any ``lightning.Trainer``.

    A batch is ``(images (N, C, H, W), targets (N, ...))``. Logged are ``train/loss``, and of validation and test the loss, the task's
    measures and ``metrics``, as ``val/NAME`` and ``test/NAME``.

    Args:
        model: after ``vl.inject``; ``(N, C, H, W) -> (N, ...)``.
        task: what the outputs are for.
        optim: optimizer, schedule and learning rate; with ``lr=None`` the usual one of the optimizer and the method.
        head: names of the head's modules, for a learning rate of their own; by default those that ``vl.find_head`` finds.
        seed: of the run; dropout depends on it, the epoch and the process alone.
        lora: what adaptation asks of the loss and the optimizer; by default what ``vl.inject`` was called with.
        halve: whether memory that gives out halves the number of images at a time, see ``Portions``; the loss must be a mean then.
        loss: ``(outputs, targets) -> `` one number, of training, validation and test; a module's parameters are trained and saved with
            the model's. By default the task's, in training with ``optim.label_smoothing``.
        metrics: torchmetrics by name, or a ``MetricCollection``; one that is named as one of the task's takes its place.

    Raises:
        UserError: ``metrics`` are none, or ``loss`` is given beside ``optim.label_smoothing``.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optim: OptimConfig | None = None,
        head: tuple[str, ...] | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
        halve: bool = False,
        *,
        loss: Loss | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # the layout in which convs are fastest, on CPUs and tensor cores
        self.lora_config, self.seed = lora or asked(model), seed
        optim = optim or OptimConfig()
        self.optim_config = optim if optim.lr else replace(optim, lr=usual_rate(optim.name, self.lora_config))
        self.head = find_head(model) if head is None else head
        self.task, self.targets = task, task.targets()
        self.portions = Portions(halve)
        self.mix: Mix | None = None  # see ``training.mixing``
        self.growth: Growth | None = None  # see ``training.growing``
        self.steps = 0  # of the whole training, where images grow
        self.pruned: PrunedLoss | None = None  # see ``training.pruned``
        self.average: Average | None = None
        self._averaged_step = 0
        self.average_state: dict[str, Any] | None = None  # of the checkpoint that the training goes on from
        self.front: Front | None = None  # while batches are cached features: what makes outputs of them
        self.strict_loading = False  # checkpoints hold what training changed; on_load_checkpoint checks the keys
        if loss is not None and optim.label_smoothing:
            raise UserError("optim.label_smoothing is for the task's own loss; give it to yours.")
        self.criterion: Loss = task.training_criterion(optim.label_smoothing) if loss is None else loss
        self.train_loss = MeanMetric()
        self.evaluations = nn.ModuleDict({part: Evaluation(task, part, loss, metrics) for part in ("val", "test")})

    @contextlib.contextmanager
    def fed_by(self, front: Front | None) -> Iterator[None]:
        """A context in which batches are features from the cut of ``front`` in place of images; ``None`` for images."""
        self.front = front
        try:
            yield
        finally:
            self.front = None

    @property
    def lr(self) -> float:
        """The learning rate; Lightning's finder sets it."""
        return self.optim_config.rate

    @lr.setter
    def lr(self, rate: float) -> None:
        self.optim_config = replace(self.optim_config, lr=rate)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs for images ``(N, C, H, W)``, or for cached features in the place of images, see ``fed_by``."""
        return self._of_images(images) if self.front is None else self.front.logits(images)

    def _of_images(self, images: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype  # not float32 under precision=bf16-true
        return self.model(images.to(dtype, memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def on_fit_start(self) -> None:
        self.train()  # Lightning leaves modes as they are; frozen batch-norm stays in eval mode whatever is called
        if self.optim_config.average != "none":
            steps = int(self.trainer.estimated_stepping_batches)
            self.average = Average(self.model, self.optim_config.average, self.optim_config.average_decay, steps)
            if self.average_state is not None:  # the model has the average, as every reader of a checkpoint gets it
                self.average.load(self.average_state)
                self.average.swap()

    def on_train_start(self) -> None:
        self.steps = int(self.trainer.estimated_stepping_batches) if self.growth is not None else 0
        self._averaged_step = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.average is not None and self.trainer.global_step > self._averaged_step:  # not while gradients are accumulated
            self._averaged_step = self.trainer.global_step
            self.average.update(self._averaged_step)

    def on_validation_start(self) -> None:
        if self.average is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.average.swap()

    def on_validation_end(self) -> None:
        if self.average is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.average.swap()

    def on_fit_end(self) -> None:
        if self.average is not None:
            self.average.swap()
            self.average = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        targets = self.targets.of(batch, "train")
        images = batch[0] if self.growth is None else self.growth.of(batch[0], self.trainer.global_step / max(self.steps, 1))
        batch = self._mixed((images, targets), batch_idx)
        if self.pruned is not None:
            self.pruned.begin(self.current_epoch, batch_idx, len(targets))
        if not len(batch[1]) or (len(batch[1]) == 1 and self._one_is_too_few()):
            return self._without_images()
        loss = self._in_portions(batch, batch_idx) if self.portions.wanted else self._loss(batch, batch_idx)
        if not all_finite(loss.detach()):
            raise self._diverged(batch, batch_idx, float(loss.detach()))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        self.train_loss.update(loss.detach(), weight=len(batch[1]) if self.pruned is None else self.pruned.positions)
        penalty = regularization(self.model, self.lora_config)
        return loss if penalty is None else loss + penalty

    def _mixed(self, batch: Batch, batch_idx: int) -> Batch:
        if self.mix is None or not len(batch[1]):
            return batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, self.current_epoch, batch_idx, self.global_rank, MIXING))
            return self.mix(*batch)

    def _one_is_too_few(self) -> bool:
        """Whether a batch that has shrunk to one image cannot be taken: batch-norm in train mode needs two."""
        data = getattr(self.trainer, "datamodule", None)
        moving = any(map(moves_statistics, self.model.modules()))
        return moving and isinstance(data, ImageData) and data.batch_size > 1

    def _without_images(self) -> Tensor:
        """The loss of a batch whose images were left out: it moves nothing, and is made by the model all the same, as other processes
        wait for its gradients. In eval mode, so that statistics do not move either.
        """
        self.model.eval()
        nothing: Tensor = 0.0 * self._of_images(example_batch(self.model)).float().sum()
        self.model.train()
        return nothing

    def _loss(self, batch: Batch, batch_idx: int, part: slice = slice(None)) -> Tensor:
        """Mean loss of a part of the batch."""
        if not part.start:
            # Dropout and the like are a function of seed, epoch, step and process: a resumed run goes on as the uninterrupted one.
            torch.manual_seed(mixed_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))
        images, targets = batch
        outputs = self.targets.fit(self(images[part]).float(), "train")
        if self.pruned is not None:
            return self.pruned.loss(self.criterion, outputs, targets[part], part)
        return one_number(self.criterion(outputs, targets[part]))

    def _in_portions(self, batch: Batch, batch_idx: int) -> Tensor:
        """The same loss, its gradients computed already, with as many images at a time as memory holds in every process."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of float16

        def compute(parts: list[slice]) -> Tensor:
            return loss_with_gradients(
                lambda part: self._loss(batch, batch_idx, part), parts, parameters, scaler.get_scale() if scaler else 1.0
            )

        while True:
            loss = self.portions.compute(len(batch[1]), compute)
            if self._agreed():
                return loss

    def _agreed(self) -> bool:
        """Whether portions are as large in all processes; afterwards they are."""
        if self.trainer.world_size == 1:
            return True
        sizes: Any = self.all_gather(torch.tensor(self.portions.most, device=self.device))
        self.portions.most = int(sizes.min())
        return bool((sizes == sizes[0]).all())

    def _diverged(self, batch: Batch, batch_idx: int, loss: float) -> UserError:
        """The sentence that ends a training whose loss is not a number any more."""

        def again() -> None:
            for part in self.portions.of(len(batch[1])):
                self._loss(batch, batch_idx, part)

        data = getattr(self.trainer, "datamodule", None)
        names = data.names_of(self.current_epoch, batch_idx) if isinstance(data, ImageData) else []
        those = f" The batch: {first_of(names, SHOWN)}." if names else ""
        return UserError(
            f"the training diverged in step {self.trainer.global_step + 1}, epoch {self.current_epoch + 1}: the loss is {loss}; first not"
            f" finite is {first_not_finite(self.model, again)}.{those} {CURE}"
        )

    def on_train_epoch_end(self) -> None:
        self.targets.tell("train")
        if self.pruned is not None:
            self.pruned.end_epoch(self.current_epoch)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not all_finite(parameter.detach()):
                raise UserError(
                    f"the training diverged in epoch {self.current_epoch + 1}: {name} is not finite after its last step. {CURE}"
                )
        loss = self.train_loss.compute()
        self.train_loss.reset()
        if not all_finite(loss):  # no image was left in the whole epoch
            return
        self.log("train/loss", loss, logger=False, sync_dist=True)  # for callbacks
        # Lightning would write it down after the checkpoint: an interruption in between would lose the row.
        for logger in self.loggers:
            logger.log_metrics({"train/loss": float(loss), "epoch": self.current_epoch}, step=self.trainer.global_step - 1)
            logger.save()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self.targets.tell("val")
        self.log_dict(self._evaluation("val").compute(), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.targets.tell("test")
        self.log_dict(self._evaluation("test").compute(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, self.head, self.optim_config, self.lora_config.lr_ratio)
        if trained := self.loss_parameters():
            groups.append({"params": list(trained.values()), "lr": self.optim_config.rate, "weight_decay": 0.0})
        optimizer = build_optimizer(groups, self.optim_config)
        schedule = build_schedule(optimizer, self.optim_config, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, part: str, batch: Batch) -> None:
        targets = self.targets.of(batch, part)
        images = batch[0]
        if not len(targets):
            return
        outputs = self.portions.compute(len(targets), lambda parts: torch.cat([self(images[part]) for part in parts]))
        if not all_finite(outputs):
            raise UserError(f"the outputs for a {part} batch are not finite (nan or infinity): the training diverged. {CURE}")
        self._evaluation(part).update(self.targets.fit(outputs, part), targets)

    def _evaluation(self, part: str) -> Evaluation:
        found = self.evaluations[part]
        assert isinstance(found, Evaluation)
        return found

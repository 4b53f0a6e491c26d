"""The LightningModule: a classifier, its loss, metrics and optimizer, and checkpoints that hold what training changed."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from visionlora.backbone.freeze import moves_statistics
from visionlora.backbone.head import example_batch
from visionlora.backbone.weights import as_of
from visionlora.common.finite import all_finite, first_not_finite
from visionlora.common.portions import ALL, Portions, loss_with_gradients
from visionlora.config import OptimConfig
from visionlora.data.batches import Features, portion
from visionlora.data.loading import mixed_seed
from visionlora.data.module import Batch, ImageData
from visionlora.errors import UserError
from visionlora.front import Front
from visionlora.lora.config import LoraConfig
from visionlora.lora.regularization import regularization
from visionlora.optim import build_optimizer, build_schedule, parameter_groups
from visionlora.trained import check_trained_state, load_trained_state, trained_state

CHECKPOINT_KEY = "visionlora"


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Top-1, macro F1, and top-5 where there are more than five classes; torchmetrics' own."""
    metrics = {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "f1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    # No compute groups: they are found by comparing states after the first batch, and where that is all right top-1 equals top-5.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]


class Evaluation(nn.Module):
    """Metrics and mean loss of one part of the data."""

    def __init__(self, num_classes: int, part: str) -> None:
        super().__init__()
        self.metrics = classification_metrics(num_classes, f"{part}/")
        self.loss, self.part = MeanMetric(), part

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in ``logits (N, classes)`` and ``labels (N,)``."""
        logits = logits.float()
        self.loss.update(nn.functional.cross_entropy(logits, labels), weight=len(labels))
        self.metrics.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """Over all processes; starts afresh afterwards."""
        values = {**self.metrics.compute(), f"{self.part}/loss": self.loss.compute()}
        self.metrics.reset()
        self.loss.reset()
        return values


SHOWN = 8
"""Files of a batch that a sentence names."""
CURE = "Lower optim.lr or lora.alpha, or set trainer.gradient_clip_val=1; the checkpoint before stands."


class Classifier(L.LightningModule):
    """Trains what ``model`` has left trainable.

    Args:
        model: a backbone after ``vl.inject``; ``(N, C, H, W) -> (N, num_classes)``.
        num_classes: number of logits.
        optim: optimizer, schedule and loss.
        head: names of the classifier's modules, for a learning rate of their own.
        seed: of the run; dropout depends on it, the epoch and the process alone.
        card: what checkpoints say of their base.
        lora: what adaptation asks of the loss and the optimizer.
        front: makes logits of cached features.
        halve: whether memory that gives out halves the number of pictures at a time, see ``Portions``.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        optim: OptimConfig,
        head: tuple[str, ...] = (),
        seed: int = 0,
        card: dict[str, Any] | None = None,
        lora: LoraConfig | None = None,
        front: Front | None = None,
        halve: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # the layout in which convs are fastest, on CPUs and tensor cores
        self.optim_config, self.head, self.seed, self.card = optim, head, seed, card or {}
        self.lora_config, self.front = lora or LoraConfig(), front
        self.portions = Portions(halve)
        self.strict_loading = False  # checkpoints hold what training changed; on_load_checkpoint checks the keys
        self.criterion = nn.CrossEntropyLoss(label_smoothing=optim.label_smoothing)
        self.train_loss = MeanMetric()
        self.evaluations = nn.ModuleDict({part: Evaluation(num_classes, part) for part in ("val", "test")})

    def forward(self, images: Tensor | Features) -> Tensor:
        if isinstance(images, Features):
            assert self.front is not None
            return self.front.logits(images.values)
        dtype = next(self.model.parameters()).dtype  # not float32 under precision=bf16-true
        return self.model(images.to(dtype, memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def on_fit_start(self) -> None:
        self.train()  # Lightning leaves modes as they are; frozen batch-norm stays in eval mode whatever is called

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not len(batch[1]) or (len(batch[1]) == 1 and self._one_is_too_few()):
            return self._without_pictures()
        loss = self._in_portions(batch, batch_idx) if self.portions.wanted else self._loss(batch, batch_idx)
        if not all_finite(loss.detach()):
            raise self._diverged(batch, batch_idx, float(loss))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        self.train_loss.update(loss.detach(), weight=len(batch[1]))
        penalty = regularization(self.model, self.lora_config)
        return loss if penalty is None else loss + penalty

    def _one_is_too_few(self) -> bool:
        """Whether a batch that has shrunk to one picture cannot be taken: batch-norm in train mode needs two."""
        data = getattr(self.trainer, "datamodule", None)
        moving = any(map(moves_statistics, self.model.modules()))
        return moving and isinstance(data, ImageData) and data.batch_size > 1

    def _without_pictures(self) -> Tensor:
        """The loss of a batch whose pictures were left out: it moves nothing, and is made by the model all the same, as other processes
        wait for its gradients. In eval mode, so that statistics do not move either.
        """
        self.model.eval()
        nothing: Tensor = 0.0 * self(example_batch(self.model)).float().sum()
        self.model.train()
        return nothing

    def _loss(self, batch: Batch, batch_idx: int, part: slice = slice(None)) -> Tensor:
        """Mean loss of a part of the batch."""
        if not part.start:
            # Dropout and the like are a function of seed, epoch, step and process: a resumed run goes on as the uninterrupted one.
            torch.manual_seed(mixed_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))
        images, labels = batch
        return self.criterion(self(portion(images, part)).float(), labels[part])  # type: ignore[no-any-return]

    def _in_portions(self, batch: Batch, batch_idx: int) -> Tensor:
        """The same loss, its gradients computed already, with as many pictures at a time as memory holds in every process."""
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
        those = f" The batch: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' * (len(names) > SHOWN)}." if names else ""
        return UserError(
            f"the training diverged in step {self.trainer.global_step + 1}, epoch {self.current_epoch + 1}: the loss is {loss}; first not"
            f" finite is {first_not_finite(self.model, again)}.{those} {CURE}"
        )

    def on_train_epoch_end(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not all_finite(parameter.detach()):
                raise UserError(
                    f"the training diverged in epoch {self.current_epoch + 1}: {name} is not finite after its last step. {CURE}"
                )
        loss = self.train_loss.compute()
        self.train_loss.reset()
        if not all_finite(loss):  # no picture was left in the whole epoch
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
        self.log_dict(self._evaluation("val").compute(), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._evaluation("test").compute(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, self.head, self.optim_config, self.lora_config.lr_ratio)
        optimizer = build_optimizer(groups, self.optim_config)
        schedule = build_schedule(optimizer, self.optim_config, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = trained_state(self.model)
        checkpoint[CHECKPOINT_KEY] = self.card | ({"pictures_at_once": self.portions.most} if self.portions.most < ALL else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_checkpoint(checkpoint, "the checkpoint")
        load_trained_state(self.model, checkpoint["state_dict"], "the checkpoint")
        self.portions.most = min(self.portions.most, int(checkpoint[CHECKPOINT_KEY].get("pictures_at_once", ALL)))
        checkpoint["state_dict"] = as_of(self, {})  # loaded, and checked more strictly than Lightning could

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        """See that a checkpoint is of this model on this base; ``where`` begins the sentence.

        Raises:
            UserError: it is not.
        """
        made_on = checkpoint.get(CHECKPOINT_KEY)
        if made_on is None:
            raise UserError(f"{where} was not written by visionlora.")
        for key in ("backbone", "fingerprint"):
            if made_on.get(key) != self.card.get(key):
                raise UserError(f"{where} is for another base: its {key} is {made_on.get(key)}, this run's is {self.card.get(key)}.")
        check_trained_state(self.model, checkpoint["state_dict"], where)

    def _evaluate(self, part: str, batch: Batch) -> None:
        images, labels = batch
        if not len(labels):
            return
        logits = self.portions.compute(len(labels), lambda parts: torch.cat([self(portion(images, part)) for part in parts]))
        if not all_finite(logits):
            raise UserError(f"the logits of a {part} batch are not finite (nan or infinity): the training diverged. {CURE}")
        self._evaluation(part).update(logits, labels)

    def _evaluation(self, part: str) -> Evaluation:
        found = self.evaluations[part]
        assert isinstance(found, Evaluation)
        return found

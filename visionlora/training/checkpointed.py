"""A LightningModule whose checkpoints hold what training changed, and say which base that is for and how it was made ready."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Any, Self

import lightning as L
import torch
from torch import nn

from visionlora.common.compat import versioned
from visionlora.common.errors import UserError
from visionlora.common.portions import ALL, Portions
from visionlora.lora.config import LoraConfig
from visionlora.model.saving import check_trained_state, load_trained_state, trained_state
from visionlora.runs.config import OptimConfig
from visionlora.tasks.task import Loss, Task
from visionlora.training.averaging import Average
from visionlora.training.pruned import PrunedLoss
from visionlora.training.reloading import CHECKPOINT_KEY, card, check_base, reloaded


class Checkpointed(L.LightningModule):
    """What a ``TaskModule`` writes into a checkpoint, and reads from one."""

    model: nn.Module
    criterion: Loss
    task: Task
    portions: Portions
    pruned: PrunedLoss | None
    average: Average | None
    average_state: dict[str, Any] | None
    optim_config: OptimConfig
    lora_config: LoraConfig
    seed: int

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        says = card(self.model, self.task, self.optim_config, self.lora_config, self.seed)
        with self.average.in_place() if self.average is not None else contextlib.nullcontext():
            checkpoint["state_dict"] = {key: value.detach().clone() for key, value in trained_state(self.model).items()}
        checkpoint[CHECKPOINT_KEY] = says | ({"pictures_at_once": self.portions.most} if self.portions.most < ALL else {})
        if self.average is not None:  # what the training goes on with: a swap of what is loaded with this
            with self.average.in_place():
                checkpoint[CHECKPOINT_KEY]["average"] = {key: value.clone() for key, value in self.average.state().items()}
        if self.pruned is not None:
            checkpoint[CHECKPOINT_KEY]["pruning"] = self.pruned.pruning.state()
        if trained := self.loss_parameters():
            checkpoint[CHECKPOINT_KEY]["loss"] = {name: parameter.detach() for name, parameter in trained.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_checkpoint(checkpoint, "the checkpoint")
        load_trained_state(self.model, checkpoint["state_dict"], "the checkpoint")
        with torch.no_grad():
            for name, parameter in self.loss_parameters().items():
                parameter.copy_(checkpoint[CHECKPOINT_KEY]["loss"][name])
        self.portions.most = min(self.portions.most, int(checkpoint[CHECKPOINT_KEY].get("pictures_at_once", ALL)))
        if self.pruned is not None and "pruning" in checkpoint[CHECKPOINT_KEY]:
            self.pruned.load(checkpoint[CHECKPOINT_KEY]["pruning"])
        self.average_state = checkpoint[CHECKPOINT_KEY].get("average")
        checkpoint["state_dict"] = versioned(self, {})  # loaded, and checked more strictly than Lightning could

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        """See that a checkpoint is of this model on this base, and of a loss with these parameters; ``where`` begins the sentence.

        Raises:
            UserError: it is not.
        """
        made_on = checkpoint.get(CHECKPOINT_KEY)
        if not isinstance(made_on, dict):
            raise UserError(f"{where} was not written by visionlora.")
        if not isinstance(made_on.get("loss", {}), dict) or type(made_on.get("pictures_at_once", ALL)) is not int:
            raise UserError(f"{where} is damaged: what it says of the loss or of memory is of another type.")
        check_base(self.model, made_on, checkpoint["state_dict"], where)
        check_trained_state(self.model, checkpoint["state_dict"], where)
        own, saved = {name: p.shape for name, p in self.loss_parameters().items()}, made_on.get("loss", {})
        if own != {name: getattr(value, "shape", None) for name, value in saved.items()}:
            raise UserError(f"{where} was trained with a loss of other parameters ({', '.join(saved) or 'none'}); give the same as loss=….")

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """The module of a checkpoint, as it was trained; a checkpoint holds no base, which is made again.

        Args:
            checkpoint_path: a file, of the command or of any Trainer.
            map_location: the device it is put on; by default the CPU.
            hparams_file: there is none for this class.
            strict: checkpoints are read strictly, whatever is given.
            weights_only: checkpoints are read weights-only, whatever is given.
            **kwargs: ``model``, the base, plain or as it was trained, where it cannot be had by name or from the run folder; and other
                arguments of the constructor, which win over the checkpoint's. ``loss`` and ``metrics`` are not in it.

        Raises:
            UserError: not a checkpoint, damaged, of another base, or its base cannot be had.
        """
        if not isinstance(checkpoint_path, str | Path):
            raise UserError("load_from_checkpoint reads files; give the path of one.")
        if hparams_file is not None:
            raise UserError("the checkpoint itself holds what the classifier was made with; leave hparams_file out.")
        model = kwargs.pop("model", None)
        module = reloaded(cls, Path(checkpoint_path), model, kwargs)
        return module.to(map_location) if isinstance(map_location, str | int | torch.device) else module

    def loss_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the loss itself, by name."""
        found = self.criterion.named_parameters() if isinstance(self.criterion, nn.Module) else ()
        return {name: parameter for name, parameter in found if parameter.requires_grad}

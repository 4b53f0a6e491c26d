"""Start the head as the best linear layer on the frozen features: a probe first, then fine-tuning."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.data.every_view import ViewData, all_predicted
from visionlora.data.module import Batch, ImageData


class _HeadInputs(L.LightningModule):
    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model, self.rows, self.targets = model, list[Tensor](), list[Tensor]()
        self._hook = model.get_submodule(head).register_forward_pre_hook(self._catch)

    def _catch(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.rows.append(inputs[0].detach().float().cpu())

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        self.model(images.to(next(self.model.parameters()).dtype, memory_format=torch.channels_last))
        self.targets.append(targets.cpu())
        return targets[:0]  # Lightning warns of None

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        self._hook.remove()
        return torch.cat(self.rows).flatten(1).numpy(), torch.cat(self.targets).numpy()


def probe_head(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData) -> None:
    """Fit the linear layer ``head`` to the features of all training images, unaugmented, as the task's probe does, and write it into the
    model (LP-FT, Kumar et al. 2022, arXiv 2202.10054, §3.4).

    Raises:
        UserError: the head is not one linear layer, the task has no probe, or not all images can be looked at.
    """
    module = model.get_submodule(head)
    if not isinstance(module, nn.Linear):
        raise UserError(f"model.head_init=probe: the head of this model is a {type(module).__name__}, not a linear layer.")
    if trainer.world_size > 1:
        raise UserError("model.head_init=probe runs in one process; fit the head first, or take model.head_init=random.")
    if not all_predicted(trainer):
        raise UserError("model.head_init=probe: trainer.limit_predict_batches or trainer.fast_dev_run leaves images out.")
    inputs = _HeadInputs(model, head)
    trainer.predict(inputs, ViewData(data, "train"), return_predictions=False)
    weight, bias = data.task.probe(*inputs.close())
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(bias))

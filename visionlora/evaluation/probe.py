"""The best linear layer on frozen features: a head to start with, to compare with, and to keep a part of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from visionlora.backbone.head import example_batch
from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.data.every_view import ViewData, all_predicted
from visionlora.data.module import Batch, ImageData
from visionlora.lora.audit import undisturbed
from visionlora.tasks.task import Task

Linear = tuple[Tensor, Tensor]
"""``weight (outputs, D)`` and ``bias (outputs,)``."""
DIFFERENT = 1e-5
"""Standard deviation of a probe's outputs over the images below which it says the same of all."""


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

    def close(self) -> tuple[Tensor, Tensor]:
        self._hook.remove()
        return torch.cat(self.rows).flatten(1), torch.cat(self.targets)


def head_inputs(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData, part: str) -> tuple[Tensor, Tensor]:
    """What enters the head for every image of a part, unaugmented: features ``(N, D)`` with targets ``(N, ...)``, on the CPU."""
    inputs = _HeadInputs(model, head)
    trainer.predict(inputs, ViewData(data, part), return_predictions=False)
    return inputs.close()


def why_no_probe(trainer: L.Trainer, model: nn.Module, head: Sequence[str], task: Task) -> str:
    """Why there can be no probe of this model here, whose head these modules are; ``""`` where there can be one."""
    module = model.get_submodule(head[0])
    if len(head) > 1:
        return f"the model has {len(head)} heads"
    if not isinstance(module, nn.Linear):
        return f"the head of this model is a {type(module).__name__}, not a linear layer"
    if type(task).probe is Task.probe:
        return f"task={task.name} has none"
    if not _takes_features(model, module):
        return "its head is not given one vector of features an image"
    if trainer.world_size > 1:
        return "it takes one process"
    if not all_predicted(trainer):
        return "trainer.limit_predict_batches or trainer.fast_dev_run leaves images out"
    return ""


def _takes_features(model: nn.Module, module: nn.Linear) -> bool:
    """Whether the head gets ``(N, D)``, once, and its outputs are the model's."""
    example, seen = example_batch(model), list[tuple[Tensor, Tensor]]()
    hook = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        with undisturbed(model), torch.no_grad():
            outputs = model(example)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][0].flatten(1).shape != (len(example), module.in_features):
        return False
    return isinstance(outputs, Tensor) and outputs.shape == seen[0][1].shape and torch.equal(outputs, seen[0][1])


def start_head(module: nn.Linear, data: ImageData, probe: Linear, features: Tensor, targets: Tensor) -> None:
    """Let a head that is to be trained start as this probe of these features; where that says the same of every image it stays at random,
    as no layer below would get a gradient.
    """
    if float((features @ probe[0].to(features).T).std(0).max()) < DIFFERENT:
        console.print("The features hardly differ between images, and the head starts at random.", highlight=False, markup=False)
        return
    weight, bias = data.task.start_of_head(probe[0].numpy(), probe[1].numpy(), features.numpy(), targets.numpy())
    set_head(module, (torch.from_numpy(weight), torch.from_numpy(bias)))


def probe_of(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData) -> Linear:
    """The task's probe on the features that ``model`` now gives of all training images, unaugmented.

    Raises:
        UserError: the task has none.
    """
    features, targets = head_inputs(trainer, model, head, data, "train")
    weight, bias = data.task.probe(features.numpy(), targets.numpy())
    return torch.from_numpy(weight), torch.from_numpy(bias)


@torch.no_grad()
def set_head(module: nn.Linear, head: Linear) -> None:
    """Write weight and bias into a head."""
    weight, bias = head
    module.weight.copy_(weight)
    if module.bias is not None:
        module.bias.copy_(bias)


def probe_head(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData, to_train: bool = False) -> Linear:
    """Let the linear layer ``head`` be the probe (LP-FT, Kumar et al. 2022, arXiv 2202.10054, §3.4), and return the probe.

    Args:
        trainer: that runs the backbone.
        model: with the head.
        head: its name.
        data: whose training images the probe learns from.
        to_train: let it be what a training from the probe starts with, see ``Task.start_of_head``.

    Raises:
        UserError: the head is not one linear layer, the task has no probe, or not all images can be looked at.
    """
    if why := why_no_probe(trainer, model, (head,), data.task):
        raise UserError(f"model.head_init=probe: {why}; leave it at random.")
    module = model.get_submodule(head)
    assert isinstance(module, nn.Linear)
    features, targets = head_inputs(trainer, model, head, data, "train")
    weight, bias = data.task.probe(features.numpy(), targets.numpy())
    probe = torch.from_numpy(weight), torch.from_numpy(bias)
    if to_train:
        start_head(module, data, probe, features, targets)
    else:
        set_head(module, probe)
    return probe

"""Cross-validation in place of a validation split: what every model between the probe and the trained one gives for images that it has
not seen. The run itself then trains on all images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import lightning as L
import torch
from safetensors.torch import save
from torch import Tensor, nn

from visionlora.common.console import console
from visionlora.common.files import folder_inside, inside, replace_file
from visionlora.common.tensors import read_tensors
from visionlora.data.module import ImageData
from visionlora.data.split import fold_parts
from visionlora.evaluation.probe import head_inputs, set_head, start_head
from visionlora.model.saving import check_trained_state, load_trained_state, trained_state
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.tasks.words import in_words
from visionlora.training.adapted import Adapted, build_module, starts_training
from visionlora.training.caching import cached
from visionlora.training.callbacks import Terminable
from visionlora.training.kept import Strength
from visionlora.training.strength import Outputs, choose, measured, outputs_between
from visionlora.training.trainer import bare_trainer

HELD_OUT = "held out"
"""The part of the data that a fold does not train on."""


@dataclass(frozen=True)
class Folds:
    """What the models of cross-validation leave.

    Args:
        count: of folds.
        strength: that their outputs for the images held out choose.
        mean: of their weights, as ``trained_state`` names them; empty where the run has no use for it.
    """

    count: int
    strength: Strength
    mean: Mapping[str, Tensor]

    def write(self, folder: RunFolder) -> None:
        """Keep it, for the run's resume; what says that it is there is written last."""
        if self.mean:
            file = inside(folder_inside(folder.path, folder.checkpoints.name), folder.folds.name)
            replace_file(file, save({key: value.contiguous() for key, value in self.mean.items()}))
        self.strength.write(inside(folder.path, folder.strength.name))

    @classmethod
    def read(cls, folder: RunFolder, averaged: bool) -> Folds:
        """What ``write`` wrote.

        Raises:
            UserError: it is damaged, or missing.
        """
        strength = Strength.read(folder.strength)
        return cls(strength.folds, strength, read_tensors(folder.folds)[0] if averaged else {})

    def average(self, model: nn.Module) -> None:
        """Let the weights be half the model's, which was trained on all images, and half the mean of the folds' (a soup, Wortsman et al.
        2022, arXiv 2203.05482): all began at the same weights.
        """
        if not self.mean:
            return
        own = trained_state(model)
        check_trained_state(model, self.mean, "folds.safetensors")
        whole = {key: torch.lerp(own[key], self.mean[key], 0.5) for key in own if own[key].is_floating_point()}
        load_trained_state(model, own | whole, "the average")


def cross_validate(config: TrainConfig, adapted: Adapted, data: ImageData) -> Folds:
    """Train once for each of ``data.folds``, as the run will, and choose by what the models give for the images held out.

    The model is as before afterwards.
    """
    model, head = adapted.model, adapted.info.head[0]
    module = model.get_submodule(head)
    assert isinstance(module, torch.nn.Linear)
    begin = {key: value.clone() for key, value in trained_state(model).items()}
    features, targets = head_inputs(bare_trainer(config), model, head, data, "train")
    data.leave_out("train")  # every image has been opened by now
    everything = data.parts["train"]
    outputs: dict[tuple[float, float], Tensor] = {}
    mean: dict[str, Tensor] = {}
    folds = fold_parts(everything, data.folds, config.data.split_seed, data.task)
    for number, (kept, held_out) in enumerate(folds, start=1):
        weight, bias = (torch.from_numpy(values) for values in data.task.probe(features[kept].numpy(), targets[kept].numpy()))
        load_trained_state(model, begin, "the start")
        if config.model.head_init == "probe":
            probe = weight, bias
            if starts_training(config.lora):
                start_head(module, data, probe, features[kept], targets[kept])
            else:
                set_head(module, probe)
        trainer = bare_trainer(config)
        with _held_out(data, kept, held_out):
            _fit(config, trainer, adapted, data, f"in fold {number} of {len(folds)}")
            found, _ = outputs_between(trainer, model, head, data, HELD_OUT, (weight, bias))
        for shares, values in found.items():
            outputs.setdefault(shares, torch.zeros(len(everything), *values.shape[1:]))[held_out] = values
        _tell(data, number, len(folds), found, targets[held_out])
        if config.optim.soup:
            for key, value in trained_state(model).items():
                mean[key] = mean.get(key, torch.zeros_like(value)) + (value / len(folds) if value.is_floating_point() else value)
    load_trained_state(model, begin, "the start")
    model.zero_grad(set_to_none=True)
    measured_on = sorted(index for _, held_out in folds for index in held_out)  # all but the only image of a class
    outputs = {shares: values[measured_on] for shares, values in outputs.items()}
    return Folds(len(folds), choose(data, outputs, targets[measured_on], everything.subset(measured_on), len(folds)), mean)


def _fit(config: TrainConfig, trainer: L.Trainer, adapted: Adapted, data: ImageData, where: str) -> None:
    trainer.callbacks.append(Terminable())  # type: ignore[attr-defined]
    try:
        with cached(config, trainer, adapted.model, data) as front:
            module = build_module(config, adapted, data)
            with module.fed_by(front):
                trainer.fit(module, data)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"{where}; no epoch of the run itself was begun, so there is no checkpoint") from None


@contextlib.contextmanager
def _held_out(data: ImageData, kept: Sequence[int], held_out: Sequence[int]) -> Iterator[None]:
    """A context in which ``data`` trains on some of its training images, and the others are a part of their own."""
    before = data.parts
    train = before["train"]
    data.parts = {"train": train.subset(kept), HELD_OUT: train.subset(held_out)}
    try:
        yield
    finally:
        data.parts, data.trainer = before, None


def _tell(data: ImageData, number: int, count: int, outputs: Outputs, targets: Tensor) -> None:
    lead = data.task.leading()
    ends = {"trained": outputs.get((1.0, 1.0)), "the probe": outputs.get((0.0, 0.0))}
    scores = {what: measured(data, given, targets)[f"val/{lead.key}"] for what, given in ends.items() if given is not None}
    words = ", ".join(f"{what} {in_words(lead.key, score, type(data.task))}" for what, score in scores.items())
    console.print(f"fold {number} of {count}: {lead.words} of {len(targets)} images held out: {words}", highlight=False)

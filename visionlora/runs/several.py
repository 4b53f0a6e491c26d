"""Several runs at once: those on one backbone share it, and each image is prepared once. Also the mean of their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.model.adapters import activate
from visionlora.model.saving import load_adapter
from visionlora.runs.averaged import adapter_folder, mean_section, same_outputs
from visionlora.runs.folder import RunFolder
from visionlora.runs.predictor import Predictor, load


class _Switched(nn.Module):
    """The shared model with one of its adapters active."""

    def __init__(self, model: nn.Module, adapter: str) -> None:
        super().__init__()
        self.model, self.adapter = model, adapter

    def forward(self, images: Tensor) -> Tensor:
        activate(self.model, self.adapter)
        return self.model(images)  # type: ignore[no-any-return]


class _Mean(nn.Module):
    """The mean of what several models give for the same images, before it is made probabilities of."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([model(images).float() for model in self.models]).mean(0)


def ensemble(runs: Sequence[str | Path]) -> Predictor:
    """One predictor whose outputs (logits) are the mean of those of several runs, with one backbone in memory: as many forward passes as
    there are runs.

    Args:
        runs: run folders or adapter folders, of one backbone, with the same outputs.

    Raises:
        UserError: see ``shared``, or their outputs have other names.
    """
    predictors = shared([str(run) for run in runs])
    first = next(iter(predictors.values()))
    for run, predictor in predictors.items():
        if not same_outputs(predictor.info, first.info):
            raise UserError(f"{run} has other outputs than {runs[0]}, or in another order; they cannot be averaged.")
    if why := first.task.why_no_mean(first.info.spec):
        raise UserError(f"the outputs of these runs cannot be averaged: {why}. average=weights makes one model of them.")
    info = replace(first.info, task=mean_section([predictor.info.task for predictor in predictors.values()]))
    return Predictor(_Mean(predictor.model for predictor in predictors.values()).eval(), info)


def shared(runs: Sequence[str]) -> dict[str, Predictor]:
    """Predictors by run, float32, in eval mode, with one backbone in memory.

    Args:
        runs: run folders, or adapter folders.

    Raises:
        UserError: they are not of the same backbone, weights, preprocessing and task.
    """
    first = load(runs[0])
    if len(runs) == 1:
        return {runs[0]: first}
    for run in runs:
        folder = RunFolder(run)
        if folder.config.is_file() and folder.read_section("lora").get("method") == "full":
            raise UserError(f"{run} was trained whole, and has no adapter to switch to; predict with it by itself.")
    infos = {runs[0]: first.info}
    for run in runs[1:]:
        other = load(run)  # checks the run by itself; its model is let go of
        if (other.info.spec.full_name, other.info.fingerprint) != (first.info.spec.full_name, first.info.fingerprint):
            raise UserError(f"{run} is on another backbone than {runs[0]} ({other.info.spec.full_name}); predict with each by itself.")
        if other.preprocessing != first.preprocessing:
            raise UserError(f"{run} prepares its images otherwise than {runs[0]}; predict with each by itself.")
        if other.task.name != first.task.name:
            raise UserError(f"{run} is of another task than {runs[0]} (task={other.task.name}); predict with each by itself.")
        infos[run] = other.info
        del other
    for number, run in enumerate(runs):
        load_adapter(first.model, adapter_folder(run), name=f"run{number}")
    first.model.requires_grad_(False).eval().to(torch.float32)
    return {run: Predictor(_Switched(first.model, f"run{number}"), infos[run]) for number, run in enumerate(runs)}

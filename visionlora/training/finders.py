"""``trainer.lr_find=true`` and ``trainer.batch_size=auto``: Lightning's finders, before the training, on a Trainer of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.tuner.tuning import Tuner

from visionlora.common.compat import versioned
from visionlora.common.drawing import save
from visionlora.common.errors import UserError
from visionlora.common.files import inside
from visionlora.common.memory import memory_has_an_end
from visionlora.common.quiet import hushed
from visionlora.data.module import ImageData
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.training.adapted import Adapted, build_module
from visionlora.training.module import TaskModule
from visionlora.training.plots import rate_finder
from visionlora.training.trainer import lightning_arguments

RATES = (1e-6, 0.3)
"""Learning rates tried, from the lowest to the highest in equal factors."""
BETA = 0.98
"""Of Lightning's running mean of the loss."""
SKIPPED = 10
"""Steps at the start whose mean is of too few batches."""
BARE: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "profiler": None,
    "max_epochs": -1,
    "max_steps": 100,  # the finders count steps
    "max_time": None,
    "limit_train_batches": None,
}
LARGEST = 1024
"""Batch size at which the search ends: beyond it, a machine is busy and the gradient hardly changes."""
FEWEST_STEPS = 8
"""Steps an epoch that a found batch size leaves at least."""


def find(config: TrainConfig, adapted: Adapted, data: ImageData, run_folder: RunFolder) -> tuple[TrainConfig, dict[str, float]]:
    """Find ``data.batch_size`` and ``optim.lr`` where the config asks for it; weights are as before afterwards.

    Returns:
        The config with what was found, and ``found/batch_size`` and ``found/lr`` for ``results.json``; ``lr_find.png`` in the run folder
        shows the curve.

    Raises:
        UserError: no learning rate lowered the loss.
    """
    found: dict[str, float] = {}
    if config.trainer.get("batch_size") == "auto":
        size = _batch_size(config, adapted, data)
        config, found["found/batch_size"] = replace(config, data=replace(config.data, batch_size=size)), size
        print(f"trainer.batch_size=auto: {size} images a batch.")
    if config.trainer.get("lr_find"):
        rate = _learning_rate(config, adapted, data, run_folder)
        config, found["found/lr"] = replace(config, optim=replace(config.optim, lr=rate)), rate
        print(f"trainer.lr_find=true: optim.lr={rate:.3g}.")
    return config, found


def tuned(config: TrainConfig, adapted: Adapted, data: ImageData, use: Callable[[L.Trainer, TaskModule], Any], **arguments: Any) -> Any:
    """What ``use`` finds with a Trainer of its own, which takes ``arguments`` too; the model's state is put back."""
    model = adapted.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {module: module.training for module in model.modules()}
    whole = replace(config, data=replace(config.data, progressive=None, prune=0.0))  # of all images in their whole size
    module = build_module(whole, adapted, data)
    try:
        with hushed("lightning.pytorch"), tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(**lightning_arguments(config) | BARE | arguments, default_root_dir=folder)
            return use(trainer, module)
    finally:
        model.load_state_dict(versioned(model, before))
        for part, mode in modes.items():
            part.train(mode)
        model.zero_grad(set_to_none=True)
        data.trainer = None


def _batch_size(config: TrainConfig, adapted: Adapted, data: ImageData) -> int:
    most = max(min(LARGEST, len(data.parts["train"]) // FEWEST_STEPS), 1)

    def use(trainer: L.Trainer, module: TaskModule) -> int | None:
        return Tuner(trainer).scale_batch_size(
            module, datamodule=data, mode="power", steps_per_trial=2, init_val=min(8, most), max_val=most
        )

    with memory_has_an_end():
        size = int(tuned(config, adapted, data, use) or data.batch_size)
    data.batch_size = min(size, most)
    return data.batch_size


def _learning_rate(config: TrainConfig, adapted: Adapted, data: ImageData, run_folder: RunFolder) -> float:
    def use(trainer: L.Trainer, module: TaskModule) -> Any:
        low, high = RATES
        return Tuner(trainer).lr_find(module, datamodule=data, min_lr=low, max_lr=high, num_training=100, update_attr=False)

    curve = tuned(config, adapted, data, use)
    # Lightning counts a step too many where it corrects the start of the running mean, so that every curve would begin by rising.
    curve.results["loss"] = [loss * (1 - BETA ** (i + 2)) / (1 - BETA ** (i + 1)) for i, loss in enumerate(curve.results["loss"])]
    rate = _steepest(curve.results["lr"], curve.results["loss"])
    if rate is None:
        raise UserError("trainer.lr_find=true found no learning rate that lowers the loss; give optim.lr, or more images.")
    save(
        rate_finder(curve.results["lr"], curve.results["loss"], rate, data.task.loss_words), inside(run_folder.path, run_folder.rates.name)
    )
    return float(f"{rate:.3g}")


def _steepest(rates: list[float], losses: list[float]) -> float | None:
    """The rate at which the loss falls fastest per decade, before its lowest point. Lightning's suggestion takes the slope per unit of
    the rate, which
    is steepest at the left end of any curve.
    """
    lowest = int(np.argmin(losses))
    if lowest <= SKIPPED + 1:
        return None
    slope = np.gradient(losses[SKIPPED : lowest + 1], np.log(rates[SKIPPED : lowest + 1]))
    return rates[SKIPPED + int(np.argmin(slope))] if slope.min() < 0 else None

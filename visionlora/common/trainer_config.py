"""The schema of ``trainer``: arguments of ``lightning.Trainer`` under their own names, checked before Lightning is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from visionlora.common.errors import UserError, did_you_mean

SET_BY_US = (
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "logger",
    "num_sanity_val_steps",
    "plugins",
    "use_distributed_sampler",
)
"""Arguments of ``lightning.Trainer`` that a run sets itself."""
OURS = ("lr_find", "batch_size", "on_oom")
"""Keys of ``trainer`` that are not Lightning's."""
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "transformer-engine")
"""Of Lightning's names for the precision those that name one thing; ``bf16``, ``32``, ``16`` and ``64`` are taken as well."""
_SHORT = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}
_USUAL = {"fp16": "16-mixed", "float16": "16-mixed", "half": "16-mixed", "bfloat16": "bf16-mixed", "fp32": "32-true", "float32": "32-true"}


@dataclass
class TrainerConfig:
    """Arguments of ``lightning.Trainer``; ``None`` leaves one to Lightning. A test compares names and types with Lightning's own."""

    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Any = "auto"
    fast_dev_run: Any = None
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int | None = -1
    min_steps: int | None = None
    max_time: Any = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    log_every_n_steps: int | None = None
    enable_progress_bar: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0
    enable_autolog_hparams: bool = True
    model_registry: str | None = None
    lr_find: bool = False
    batch_size: Any = None
    on_oom: str = "raise"

    def __post_init__(self) -> None:
        self._check_length()
        for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"):
            _check_batches(key, getattr(self, key), least=0 if key != "limit_train_batches" else None)
        self._check_validations()
        least = {
            "num_nodes": 1,
            "min_epochs": 0,
            "min_steps": 0,
            "check_val_every_n_epoch": 1,
            "log_every_n_steps": 0,
            "accumulate_grad_batches": 1,
            "gradient_clip_val": 0,
            "reload_dataloaders_every_n_epochs": 0,
        }
        for key, low in least.items():
            value = getattr(self, key)
            if value is not None and not value >= low:
                raise UserError(f"trainer.{key}={value} must be at least {low}.")
        _one_of("gradient_clip_algorithm", self.gradient_clip_algorithm, ("norm", "value"))
        _one_of("on_oom", self.on_oom, ("raise", "halve"))
        _one_of("deterministic", self.deterministic, (True, False, "warn"))
        _one_of("profiler", self.profiler, ("simple", "advanced", "pytorch", "xla"))
        self._check_precision()
        self._check_devices()
        if isinstance(self.max_time, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", self.max_time):
            raise UserError(f"trainer.max_time={self.max_time} must be days:hours:minutes:seconds, as in 00:01:30:00.")
        if self.batch_size not in (None, "auto"):
            raise UserError(f"trainer.batch_size={self.batch_size} is auto or null; a number is given as data.batch_size.")

    def _check_length(self) -> None:
        steps = -1 if self.max_steps is None else self.max_steps
        epochs = -1 if self.max_epochs is None else self.max_epochs
        if epochs == 0 or steps == 0:
            key = "max_epochs" if epochs == 0 else "max_steps"
            raise UserError(
                f"trainer.{key}=0 trains nothing; it is at least 1. What the backbone can do untrained is test_before of any run,"
                " and lora=none trains the head alone."
            )
        if epochs < -1 or steps < -1:
            key, value = ("max_epochs", epochs) if epochs < -1 else ("max_steps", steps)
            raise UserError(f"trainer.{key}={value} must be at least 1 (or -1 for no limit).")
        if self.max_epochs is not None and epochs == steps == -1:
            raise UserError("trainer.max_epochs=-1 has no end that a learning-rate schedule could be laid out for; set trainer.max_steps.")

    def _check_validations(self) -> None:
        every = self.val_check_interval
        if every is None or isinstance(every, dict) or (isinstance(every, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", every)):
            return  # the latter are times, as in max_time
        number = isinstance(every, int | float) and not isinstance(every, bool)
        if not number or not every > 0 or (isinstance(every, float) and every > 1):
            raise UserError(
                f"trainer.val_check_interval={every} must be a number of batches, as in 100, or a share of the epoch, as in 0.25."
            )
        if self.check_val_every_n_epoch is None and not isinstance(every, int):
            raise UserError("trainer.check_val_every_n_epoch=null needs trainer.val_check_interval as a number of batches.")

    def _check_precision(self) -> None:
        text = str(self.precision)
        if self.precision is None or text in PRECISIONS or text in _SHORT or text == "transformer-engine-float16":
            return
        if text.lower() in _USUAL:
            raise UserError(f"trainer.precision={text} is unknown: write trainer.precision={_USUAL[text.lower()]}.")
        _one_of("precision", text, PRECISIONS)

    def _check_devices(self) -> None:
        devices = self.devices
        if devices is None or devices in ("auto", -1, "-1"):
            return
        numbers = devices if isinstance(devices, list) else str(devices).split(",")
        if isinstance(devices, bool) or not numbers or not all(str(number).strip().isdecimal() for number in numbers):
            raise UserError(
                f"trainer.devices={devices} must be auto, a number of processes, or a list of GPUs as in trainer.devices=[0,1]."
            )
        if devices in (0, "0"):
            raise UserError("trainer.devices=0 leaves nothing to compute on; it is at least 1, or auto.")


def _one_of(key: str, value: Any, known: tuple[Any, ...]) -> None:
    if value is not None and value not in known:
        names = [str(name).lower() if isinstance(name, bool) else str(name) for name in known]
        raise UserError(f"trainer.{key}={value} is unknown; it is one of {', '.join(names)}.{did_you_mean(str(value), names)}")


def _check_batches(key: str, value: Any, least: int | None) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    enough = number and (value > 0 or value == least)
    if not enough or (isinstance(value, float) and value > 1):
        none = " (0: none)" if least == 0 else ""
        raise UserError(f"trainer.{key}={value} must be a number of batches, as in 10, or a share of them, as in 0.1{none}.")

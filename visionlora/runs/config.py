"""The schemas of ``optim`` and of a whole run, and what of a run's config is written down."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from visionlora.backbone.config import ModelConfig
from visionlora.common.config import at_least, checked, fraction, one_of
from visionlora.common.errors import UserError
from visionlora.common.trainer_config import TrainerConfig
from visionlora.data.class_names import WORDNET
from visionlora.data.config import DataConfig
from visionlora.lora.config import LoraConfig
from visionlora.tasks.registry import USUAL, check_section

OPTIMIZERS = ("adamw", "adam", "sgd", "nadamw", "radam", "lamb", "lion", "adan", "adopt", "muon", "rmsprop", "adabelief", "laprop", "mars")
"""Names of ``timm.optim.create_optimizer_v2`` (which takes torch's own for the first ones)."""


SCHEDULES = ("onecycle", "cosine", "constant")


RATES = {"sgd": 0.05, "lion": 5e-4}
"""Usual learning rates of LoRA with optimizers whose steps are of another size than AdamW's."""


def usual_rate(optimizer: str, lora: LoraConfig) -> float:
    """What ``optim.lr=null`` is: the optimizer's usual rate times what the method wants (measured: docs/methods.md)."""
    factor = {"none": 3.0, "full": 0.1, "adalora": 2.0}.get(lora.method, 1.0)
    if lora.method not in ("none", "full"):
        if lora.init in ("pissa", "milora", "olora"):  # factors that start large
            factor *= 0.1
        if lora.freeze_a:
            factor *= 2
        if lora.lr_ratio > 1:
            factor *= 2 / lora.lr_ratio
    return float(f"{factor * RATES.get(optimizer, 3e-3):.3g}")


USUAL_RANK = LoraConfig.r
"""Of every update, where nothing says another."""


@dataclass
class LoraSection(LoraConfig):
    """The section ``lora`` of a training: its rank may be left open, to the recipe."""

    r: int | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.r is None:
            replace(self, r=USUAL_RANK)  # all else is checked as ever
        else:
            super().__post_init__()


@dataclass
class OptimConfig:
    """Optimizer, schedule and loss; see ``optim.py``."""

    name: str = "adamw"
    lr: float | None = None
    head_lr: float | None = None
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "onecycle"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    layer_decay: float | None = None
    average: str = "none"
    average_decay: float = 0.99
    soup: bool | None = False
    strength: str | None = "all"

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, OPTIMIZERS)
        one_of("optim.schedule", self.schedule, SCHEDULES)
        if self.strength is not None:
            one_of("optim.strength", self.strength, ("all", "auto", "none"))
        for key in ("lr", "head_lr"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"optim.{key}={value} must be above 0.")
        at_least("optim.weight_decay", self.weight_decay, 0)
        one_of("optim.average", self.average, ("none", "ema", "swa"))
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UserError(f"optim.layer_decay={self.layer_decay} must be above 0 and at most 1.")
        for key in ("momentum", "warmup", "label_smoothing", "average_decay"):
            fraction(f"optim.{key}", getattr(self, key))

    @property
    def rate(self) -> float:
        """The learning rate; LoRA's usual one where none is given."""
        return usual_rate(self.name, LoraConfig()) if self.lr is None else self.lr


OPEN = {
    "model.head_init": None,
    "lora.r": None,
    "data.batch_size": None,
    "data.image_size": None,
    "data.folds": "auto",
    "data.crop_scale": "auto",
    "optim.lr": None,
    "optim.head_lr": None,
    "optim.strength": None,
    "optim.soup": None,
    "trainer.max_epochs": None,
}
"""Settings that a recipe chooses, and what they are where it is left to it."""
RECIPES = ("auto", "fast", "best", "plain")


@dataclass
class RecipeConfig:
    """What chooses the settings that are left open; see ``training/recipe.py``."""

    name: str = "auto"
    minutes: float | None = None

    def __post_init__(self) -> None:
        one_of("recipe.name", self.name, RECIPES)
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"recipe.minutes={self.minutes} must be above 0.")


@dataclass
class RunModelConfig(ModelConfig):
    """The section ``model`` of a run: it may leave the start of the head to the recipe."""

    head_init: str | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        left_open = self.head_init is None
        self.head_init = self.head_init or "random"
        super().__post_init__()
        if left_open:
            self.head_init = None


@dataclass
class TrainConfig:
    """One run of ``visionlora.train``. ``trainer`` holds arguments of ``lightning.Trainer`` under their own names, ``task`` the name of a
    task and its options.
    """

    model: RunModelConfig
    data: DataConfig
    lora: LoraSection
    optim: OptimConfig
    trainer: dict[str, Any]
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=lambda: {"name": USUAL})
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    seed: int = 0
    ckpt_path: str | None = None
    again: str | None = None

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise UserError(f"seed={self.seed} must be below 2**32 (NumPy's limit).")
        self.trainer = _checked_trainer(self.trainer)
        check_section(self.task)


def _checked_trainer(values: dict[str, Any]) -> dict[str, Any]:
    """The keys that are given, checked and as the types of ``TrainerConfig``; the others are left to Lightning."""
    found = checked(TrainerConfig, OmegaConf.create(values), "trainer.")
    return {key: getattr(found, key) for key in values}


OWN = ("model", "data", "lora", "optim", "trainer", "task", "recipe", "seed")
"""Sections a resumed run takes from its folder. Callbacks and loggers come from the command line: they name classes to make,
and nothing read from a run folder is ever instantiated."""


OF_THE_RUN = ("last", "best")
"""Values of ``ckpt_path`` that mean a checkpoint of the run's own; others are paths."""


def portable(config: TrainConfig) -> dict[str, Any]:
    """The config as it is written down: paths as they are from any folder."""
    values = asdict(config)
    if not (config.data.of_hub or config.data.of_url):
        values["data"]["root"] = str(Path(config.data.root).absolute())
    if config.data.decoded is not None:
        values["data"]["decoded"] = str(Path(config.data.decoded).absolute())
    if config.data.exclude is not None:
        values["data"]["exclude"] = str(Path(config.data.exclude).absolute())
    if config.data.classes not in (None, WORDNET):
        values["data"]["classes"] = str(Path(str(config.data.classes)).absolute())
    if config.model.weights is not None and not config.model.weights.startswith("pip:"):
        values["model"]["weights"] = str(Path(config.model.weights).absolute())
    if config.ckpt_path is not None and config.ckpt_path not in OF_THE_RUN:
        values["ckpt_path"] = str(Path(config.ckpt_path).absolute())
    if config.again is not None:
        values["again"] = str(Path(config.again).absolute())
    return values

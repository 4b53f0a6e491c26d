"""The schema of a run: every key a user can set, its type and its limits. Free of torch: a mistake here is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from visionlora.common.trainer_config import TrainerConfig
from visionlora.errors import UserError, did_you_mean
from visionlora.lora.config import LoraConfig

OPTIMIZERS = ("adamw", "adam", "sgd", "nadamw", "radam", "lamb", "lion", "adan", "adopt", "muon", "rmsprop", "adabelief", "laprop", "mars")
"""Names of ``timm.optim.create_optimizer_v2`` (which takes torch's own for the first ones)."""
SCHEDULES = ("onecycle", "cosine", "constant")
SOURCES = ("digits", "cifar10", "cifar100", "imagefolder", "imagenet", "fake")


@dataclass
class ModelConfig:
    """The backbone; see ``backbone.create.create_backbone``."""

    source: str
    name: str
    pretrained: bool = True
    weights: str | None = None
    in_chans: int = 3
    stem: str = "default"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    freeze_bn: bool = True
    fold_bn: str = "auto"
    head_init: str = "random"
    checkpointing: str = "none"
    compile: bool = False
    quantize: str | None = None

    def __post_init__(self) -> None:
        one_of("model.source", self.source, ("timm", "torchvision"))
        one_of("model.fold_bn", self.fold_bn, ("auto", "off"))
        one_of("model.checkpointing", self.checkpointing, ("none", "light", "blocks"))
        if self.quantize is not None:
            one_of("model.quantize", self.quantize, ("int8",))
        one_of("model.head_init", self.head_init, ("random", "probe"))
        one_of("model.stem", self.stem, ("default", "small"))
        at_least("model.in_chans", self.in_chans, 1)
        fraction("model.drop_rate", self.drop_rate)
        fraction("model.drop_path_rate", self.drop_path_rate)


@dataclass
class DataConfig:
    """The pictures and how they are split, prepared and augmented; see ``data.module.ImageData``."""

    name: str
    root: str
    batch_size: int = 64
    num_workers: int | None = None
    image_size: int | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    per_class: int | None = None
    max_bad: float = 0.01
    download: bool = True
    hflip: float = 0.5
    crop_scale: list[float] | None = None
    randaugment: int = 0
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    cache: str = "auto"
    cache_views: int | None = None
    num_classes: int = 4
    num_images: int = 64

    def __post_init__(self) -> None:
        one_of("data.name", self.name, SOURCES)
        one_of("data.cache", self.cache, ("auto", "memory", "disk", "off"))
        if self.per_class is not None:
            at_least("data.per_class", self.per_class, 1)
        if self.cache_views is not None:
            at_least("data.cache_views", self.cache_views, 1)
        at_least("data.batch_size", self.batch_size, 1)
        at_most("data.batch_size", self.batch_size, 2**20)
        if self.num_workers is not None:
            at_least("data.num_workers", self.num_workers, 0)
        if self.image_size is not None:
            at_least("data.image_size", self.image_size, 8)
            at_most("data.image_size", self.image_size, 4096)
        for key in ("val_fraction", "test_fraction", "hflip", "random_erasing", "max_bad"):
            fraction(f"data.{key}", getattr(self, key), one=key in ("hflip", "random_erasing", "max_bad"))
        at_least("data.randaugment", self.randaugment, 0)
        at_least("data.color_jitter", self.color_jitter, 0)
        scale = self.crop_scale
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
            raise UserError(f"data.crop_scale={scale} must be [smallest, largest] share of the picture, or null for no random crop.")
        at_least("data.num_classes", self.num_classes, 1)
        at_least("data.num_images", self.num_images, 1)
        at_most("data.num_images", max(self.num_classes, self.num_images), 2**20)  # made in memory


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

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, OPTIMIZERS)
        one_of("optim.schedule", self.schedule, SCHEDULES)
        for key in ("lr", "head_lr"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"optim.{key}={value} must be above 0.")
        at_least("optim.weight_decay", self.weight_decay, 0)
        for key in ("momentum", "warmup", "label_smoothing"):
            fraction(f"optim.{key}", getattr(self, key))

    @property
    def rate(self) -> float:
        """The learning rate; LoRA's usual one where none is given."""
        return usual_rate(self.name, LoraConfig()) if self.lr is None else self.lr


@dataclass
class TrainConfig:
    """One run of ``visionlora.train``. ``trainer`` holds arguments of ``lightning.Trainer`` under their own names."""

    model: ModelConfig
    data: DataConfig
    lora: LoraConfig
    optim: OptimConfig
    trainer: dict[str, Any]
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    ckpt_path: str | None = None
    again: str | None = None

    def __post_init__(self) -> None:
        if self.optim.lr is None:
            self.optim.lr = usual_rate(self.optim.name, self.lora)
        at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise UserError(f"seed={self.seed} must be below 2**32 (NumPy's limit).")
        self.trainer = _checked_trainer(self.trainer)


T = TypeVar("T")


def checked(schema: type[T], config: DictConfig, prefix: str = "") -> T:
    """``config`` as an instance of ``schema``; in messages, its keys are named with ``prefix``.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), config)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        key = f"{prefix}{error.full_key}"
        raise UserError(f"{key} is not set; give it on the command line as {key}=….") from None
    except (ConfigKeyError, ConfigAttributeError) as error:
        where, _, key = (error.full_key or "").rpartition(".")
        section = get_type_hints(schema).get(where, schema) if where else schema
        known = [entry.name for entry in fields(section)] if is_dataclass(section) else []
        raise UserError(f"unknown key {prefix}{error.full_key}.{did_you_mean(key, known)}") from None
    except (ValidationError, OmegaConfBaseException) as error:
        key = (error.full_key or "").partition("[")[0]
        wanted = _WANTED.get(str(_type_of(schema, key)).removesuffix(" | None"))
        value = OmegaConf.select(config, key) if key else None
        if wanted is None or OmegaConf.is_dict(value):
            raise UserError(f"{prefix}{key or 'config'}: {str(error).splitlines()[0].rstrip('.')}.") from None
        null = ", or null" if str(_type_of(schema, key)).endswith("None") else ""
        python = {True: "true", False: "false", None: "null"}  # as it is typed
        shown = python[value] if value is None or isinstance(value, bool) else value
        hint = ", which is written null" if value == "None" and null else ""
        raise UserError(f"{prefix}{key}={shown} must be {wanted}{null}{hint}.") from None


_WANTED = {
    "<class 'int'>": "a whole number",
    "int": "a whole number",
    "<class 'float'>": "a number",
    "float": "a number",
    "<class 'bool'>": "true or false",
    "bool": "true or false",
    "list[float]": "a list of numbers, as in [0.5,1.0]",
}
"""Types of the schemas in words."""


def _type_of(schema: Any, key: str) -> Any:
    for name in key.split("."):
        schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return schema


def _checked_trainer(values: dict[str, Any]) -> dict[str, Any]:
    """The keys that are given, checked and as the types of ``TrainerConfig``; the others are left to Lightning."""
    found = checked(TrainerConfig, OmegaConf.create(values), "trainer.")
    return {key: getattr(found, key) for key in values}


def listed(value: Any) -> list[str]:
    """One value or a list of them as a list of words."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ``UserError`` unless ``value`` is among ``known``."""
    if value not in known:
        raise UserError(f"{key}={value} is unknown; it is one of {', '.join(known)}.{did_you_mean(str(value), known)}")


def at_least(key: str, value: float, least: float) -> None:
    """Raise ``UserError`` for a ``value`` below ``least``."""
    if not value >= least:
        raise UserError(f"{key}={value} must be at least {least}.")


def at_most(key: str, value: float, most: float) -> None:
    """Raise ``UserError`` for a ``value`` above ``most``."""
    if not value <= most:
        raise UserError(f"{key}={value} must be at most {most}.")


def fraction(key: str, value: float, one: bool = False) -> None:
    """Raise ``UserError`` unless ``value`` is in 0…1 (1 itself only if ``one``)."""
    if not (0 <= value < 1 or (one and value == 1)):
        raise UserError(f"{key}={value} must be between 0 and 1.")

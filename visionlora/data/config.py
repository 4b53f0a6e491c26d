"""The schema of ``data``."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionlora.common.config import at_least, at_most, fraction, off, one_of
from visionlora.common.errors import UserError
from visionlora.common.registry import Registry

SOURCES: Registry[Callable[..., Any]] = Registry(
    "data.name",
    "visionlora.sources",
    digits="visionlora.data.sources.made:digits",
    cifar10="visionlora.data.sources.cifar:cifar",
    cifar100="visionlora.data.sources.cifar:cifar",
    imagefolder="visionlora.data.sources.class_folders:image_folder",
    imagenet="visionlora.data.sources.class_folders:image_folder",
    fake="visionlora.data.sources.made:fake",
    table="visionlora.data.sources.table:table",
    webdataset="visionlora.data.sources.shards:shards",
    masks="visionlora.data.sources.masks:masks",
    voc="visionlora.data.sources.voc:voc",
    coco="visionlora.data.sources.coco:coco",
    yolo="visionlora.data.sources.yolo:yolo",
    hf="visionlora.data.sources.hf:hugging_face",
    litdata="visionlora.data.sources.litdata:chunks",
)
"""Name -> ``(config: DataConfig) -> Source``. What a source of a package wants to be told beside the keys here is in ``options``."""
TRANSFORMS: Registry[Callable[..., Any]] = Registry(
    "data.transform",
    "visionlora.transforms",
    trivialaugment="visionlora.data.augmentation:trivial_augment",
    autoaugment="visionlora.data.augmentation:auto_augment",
    augmix="visionlora.data.augmentation:aug_mix",
)
"""Name -> ``(config: DataConfig) -> transform`` of one training image: a PIL image as the view shows it, and one of the same size back."""


USUAL_CROP = (0.35, 1.0)
"""Random crops that ``data.crop_scale=auto`` stands for where no recipe chooses."""
URL = r"[a-z][a-z0-9+.-]+://.+"
_HUB_NAME = r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?(?<!\.parquet)"
BALANCES = ("none", "weights", "sampler", "logit_adjustment")


@dataclass
class DataConfig:
    """The images and how they are split, prepared and augmented; see ``data.module.ImageData``."""

    name: str
    root: str = "data"
    batch_size: int | None = 64
    num_workers: int | None = None
    image_size: int | None = None
    val_fraction: float | None = 0.1
    folds: int | str = 0
    test_fraction: float = 0.2
    split_seed: int = 0
    per_class: int | None = None
    balance: str = "none"
    max_bad: float = 0.01
    exclude: str | None = None
    classes: str | None = None
    levels: int = 1
    download: bool = True
    label: Any = None
    image: str | None = None
    images: str | None = None
    separator: str = "|"
    kept_gb: float = 100.0
    hflip: float = 0.5
    crop_scale: Any = "auto"  # or two shares, or None: OmegaConf has no union of these
    randaugment: int = 0
    color_jitter: float = 0.0
    scale_jitter: list[float] | None = field(default_factory=lambda: [0.8, 1.25])
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1
    progressive: float | None = None
    prune: float = 0.0
    transform: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    decoded: str | None = None
    decoded_gb: float = 20.0
    cache: str = "auto"
    cache_views: int | None = None
    num_classes: int = 4
    num_images: int = 64

    def __post_init__(self) -> None:
        SOURCES.check(self.name)
        if self.transform is not None:
            TRANSFORMS.check(self.transform)
        self.cache = off(self.cache)
        one_of("data.cache", self.cache, ("auto", "memory", "disk", "off"))
        if self.per_class is not None:
            at_least("data.per_class", self.per_class, 1)
        if self.cache_views is not None:
            at_least("data.cache_views", self.cache_views, 1)
        if self.batch_size is not None:
            at_least("data.batch_size", self.batch_size, 1)
            at_most("data.batch_size", self.batch_size, 2**20)
        self._check_folds()
        if self.label is not None:
            self.label = [self.label] if isinstance(self.label, str) else list(self.label)
            if not self.label or not all(isinstance(name, str) for name in self.label):
                raise UserError(f"data.label={self.label} must be the heading of a column, or a list of headings.")
        if not self.separator:
            raise UserError("data.separator must not be empty.")
        one_of("data.balance", self.balance, BALANCES)
        if self.num_workers is not None:
            at_least("data.num_workers", self.num_workers, 0)
        if self.image_size is not None:
            at_least("data.image_size", self.image_size, 8)
            at_most("data.image_size", self.image_size, 4096)
        if self.progressive is not None and not 0.1 <= self.progressive < 1:
            raise UserError(
                f"data.progressive={self.progressive} must be a share of the side, as in 0.5, at least 0.1 and below 1, or null."
            )
        for key in ("val_fraction", "test_fraction", "hflip", "random_erasing", "max_bad", "prune"):
            if getattr(self, key) is not None:
                fraction(f"data.{key}", getattr(self, key), one=key in ("hflip", "random_erasing", "max_bad"))
        for key in ("randaugment", "mixup", "cutmix"):
            at_least(f"data.{key}", getattr(self, key), 0)
        at_least("data.repeats", self.repeats, 1)
        at_least("data.levels", self.levels, 1)
        at_least("data.color_jitter", self.color_jitter, 0)
        self._check_crop()
        jitter = self.scale_jitter
        if jitter is not None and not (len(jitter) == 2 and 0.05 <= jitter[0] <= jitter[1] <= 20):
            raise UserError(
                f"data.scale_jitter={jitter} must be [smallest, largest] size, in units of the whole image's, or null for none."
            )
        for key in ("kept_gb", "decoded_gb"):
            if not getattr(self, key) > 0:
                raise UserError(f"data.{key}={getattr(self, key)} must be more than 0.")
        at_least("data.num_classes", self.num_classes, 1)
        at_least("data.num_images", self.num_images, 1)
        at_most("data.num_images", max(self.num_classes, self.num_images), 2**20)  # made in memory

    @property
    def crop(self) -> tuple[float, float] | None:
        """Shares of an image that random crops have; ``None``: the whole image."""
        smallest_and_largest = USUAL_CROP if self.crop_scale == "auto" else self.crop_scale
        return None if smallest_and_largest is None else (smallest_and_largest[0], smallest_and_largest[1])

    @property
    def of_hub(self) -> bool:
        """Whether ``root`` is the name of a data set of the Hugging Face hub, and of nothing on the disk."""
        return self.name == "hf" and bool(re.fullmatch(_HUB_NAME, self.root)) and not Path(self.root).exists()

    @property
    def of_url(self) -> bool:
        """Whether ``root`` is a URL of shards."""
        return self.name == "webdataset" and re.fullmatch(URL, self.root) is not None

    @property
    def there(self) -> bool:
        """Whether there is anything on the disk where ``root`` says, be it a pattern; a name of the hub and a URL are not looked for."""
        return self.of_hub or self.of_url or Path(self.root).exists() or next(glob.iglob(self.root), None) is not None

    def _check_crop(self) -> None:
        given = self.crop_scale
        if given is None or given == "auto":
            return
        numbers = isinstance(given, list | tuple) and all(isinstance(share, int | float) and not isinstance(share, bool) for share in given)
        if not (numbers and len(given) == 2 and 0 < given[0] <= given[1] <= 1):
            raise UserError(
                f"data.crop_scale={given} must be [smallest, largest] share of the image, as in [0.5,1.0], null for all of it, or auto."
            )
        self.crop_scale = [float(share) for share in given]

    def _check_folds(self) -> None:
        text = str(self.folds)
        if text not in ("auto", "0") and not (text.isdecimal() and int(text) >= 2):
            raise UserError(f"data.folds={text} must be auto, 0 for none, or a number of folds, 2 or more.")
        self.folds = "auto" if text == "auto" else int(text)

"""What is known of a backbone beside its weights: where it came from, its head, its preprocessing, its fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visionlora.common.typed import typed

ATTRIBUTE = "backbone_info"
MOST_PIXELS = 4096
"""A side of the images that a card may ask for."""
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "letterbox")


@dataclass(frozen=True)
class Preprocessing:
    """How the backbone wants its images.

    Args:
        image_size: side of the square input, in pixels.
        mean: per channel, of values in 0…1.
        std: per channel, of values in 0…1.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        crop_pct: share of the resized image that the centre crop keeps.
        crop_mode: ``center``; ``squash``: the whole image, whatever its shape; ``letterbox``: the whole image in its shape, the rest of
            the square below or right of it filled with the mean colour.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    @property
    def channels(self) -> int:
        return len(self.mean)


def per_channel(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """Statistics of three channels for ``in_chans``: their mean where it is another number."""
    return tuple(values) if in_chans == len(values) else (sum(values) / len(values),) * in_chans


@dataclass(frozen=True)
class BackboneSpec:
    """The arguments that build the backbone again; see ``create_backbone``."""

    source: str
    name: str
    num_classes: int
    pretrained: bool = True
    weights: str | None = None
    in_chans: int = 3
    image_size: int | None = None
    stem: str = "default"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    decoder: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.source}/{self.name}"

    @property
    def words(self) -> str:
        """The name, and what is over it."""
        return f"{self.full_name} with {self.decoder}" if self.decoder else self.full_name


@dataclass
class BackboneInfo:
    """Kept on the model as ``model.backbone_info``.

    Args:
        spec: how to build it again.
        preprocessing: how to prepare its images.
        head: names of the modules that make outputs of features.
        remade: names of the layers made anew for this task, trained and saved whole.
        resized: names of the weights that were interpolated to the image size.
        fingerprint: of the base's weights, see ``fingerprint``.
        classes: names of the outputs, once known.
        task: the section ``task`` of the run's config: what the outputs are for; empty for a classifier.
    """

    spec: BackboneSpec
    preprocessing: Preprocessing
    head: tuple[str, ...]
    remade: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    fingerprint: str = ""
    classes: list[str] = field(default_factory=list)
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def reproducible(self) -> bool:
        """Whether the same weights can be had again by name: not so for random ones or a local file."""
        weights = self.spec.weights
        return self.spec.pretrained and (weights is None or weights.startswith("pip:"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> BackboneInfo:
        """Read back what ``to_dict`` gave.

        Raises:
            ValueError: it is damaged, or asks for more than any backbone has; the message names the key.
        """
        info = typed(cls, values, "backbone")
        spec, prepared = info.spec, info.preprocessing
        fits = {
            "spec.name": re.fullmatch(r"[\w./-]{1,256}", spec.name) is not None,
            "spec.decoder": spec.decoder is None or re.fullmatch(r"\w{1,64}", spec.decoder) is not None,
            "spec.num_classes": 1 <= spec.num_classes <= 10**6,
            "spec.in_chans": 1 <= spec.in_chans <= 64,
            "spec.image_size": spec.image_size is None or 1 <= spec.image_size <= MOST_PIXELS,
            "spec.drop_rate": 0 <= spec.drop_rate < 1,
            "spec.drop_path_rate": 0 <= spec.drop_path_rate < 1,
            **{f"preprocessing.{key}": fit for key, fit in preprocessing_fits(prepared, spec.in_chans).items()},
            "head": bool(info.head),
            "classes": len(info.classes) in (0, spec.num_classes) and len(set(info.classes)) == len(info.classes),
        }
        for key, fit in fits.items():
            if not fit:
                raise ValueError(f"backbone.{key} is out of range or does not fit the rest")
        return info


def preprocessing_fits(prepared: Preprocessing, in_chans: int) -> dict[str, bool]:
    """For each field of ``prepared``, whether its value is in range and fits ``in_chans`` channels."""
    return {
        "image_size": 1 <= prepared.image_size <= MOST_PIXELS,
        "mean": len(prepared.mean) == in_chans,
        "std": len(prepared.std) == in_chans and min(prepared.std) > 0,
        "interpolation": prepared.interpolation in INTERPOLATIONS,
        "crop_mode": prepared.crop_mode in CROP_MODES,
        "crop_pct": 0.05 <= prepared.crop_pct <= 2,
    }


def info_of(model: nn.Module) -> BackboneInfo | None:
    """The info ``create_backbone`` left on the model, or ``None`` for a model from elsewhere."""
    info = getattr(model, ATTRIBUTE, None)
    return info if isinstance(info, BackboneInfo) else None


def fingerprint(state: dict[str, Tensor], without: Iterable[str] = ()) -> str:
    """sha256 over the sorted (key, dtype, shape, bytes) of a state dict, modules and keys named in ``without`` left out."""
    keys = set(without)
    prefixes = tuple(name + "." for name in keys)
    digest = hashlib.sha256()
    for key in sorted(state):
        if key not in keys and not key.startswith(prefixes):
            tensor = state[key].detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

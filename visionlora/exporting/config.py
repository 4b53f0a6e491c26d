"""The schemas of ``visionlora.export`` and ``visionlora.compress``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.common.config import at_least, fraction, listed, one_of
from visionlora.common.errors import UserError

EXPORTS = ("timm", "torchvision", "state_dict", "onnx", "pt2")


def known_formats(value: Any) -> list[str]:
    """One format of ``EXPORTS`` or a list of them, each once.

    Raises:
        UserError: one is unknown, or there is none.
    """
    formats = list(dict.fromkeys(listed(value)))
    for name in formats:
        one_of("format", name, EXPORTS)
    if not formats:
        raise UserError(f"format=[] names no format; it is one of {', '.join(EXPORTS)}, or several.")
    return formats


@dataclass
class ExportConfig:
    """One call of ``visionlora.export``. ``format`` is one of ``EXPORTS`` or a list of them."""

    run: str
    format: Any = "timm"
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.formats  # noqa: B018 a wrong one is told at once

    @property
    def formats(self) -> list[str]:
        return known_formats(self.format)


@dataclass
class CompressConfig:
    """One call of ``visionlora.compress``."""

    run: str
    split: str = "test"
    root: str | None = None
    calibration: int = 256
    prune: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7])

    def __post_init__(self) -> None:
        one_of("split", self.split, ("train", "val", "test"))
        at_least("calibration", self.calibration, 1)
        for share in self.prune:
            fraction("prune", share)

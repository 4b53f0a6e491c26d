"""The config of ``visionlora.check``: that of a training, and where the findings go."""

from __future__ import annotations

from dataclasses import dataclass

from visionlora.common.config import at_least
from visionlora.runs.config import TrainConfig


@dataclass
class CheckConfig(TrainConfig):
    """What ``visionlora.train`` would be given, whose images are checked.

    Args:
        output: folder for ``findings.csv`` and ``findings.html``.
        overwrite: replace those that are there.
        smallest: pixels of the shorter side below which an image is told as small.
        labels: look for labels that are likely wrong, with the backbone's features.
    """

    output: str = "check"
    overwrite: bool = False
    smallest: int = 16
    labels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("smallest", self.smallest, 1)

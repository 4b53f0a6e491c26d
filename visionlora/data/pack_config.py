"""The config of ``visionlora.pack``. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.common.config import at_least
from visionlora.data.config import DataConfig
from visionlora.tasks.registry import USUAL, check_section


@dataclass
class PackConfig:
    """What is packed.

    Args:
        data: the images, all parts that there are; nothing is split off.
        output: folder for the shards.
        task: what their labels are.
        images: in a shard, at most.
    """

    data: DataConfig
    output: str
    task: dict[str, Any] = field(default_factory=lambda: {"name": USUAL})
    images: int = 1000

    def __post_init__(self) -> None:
        at_least("images", self.images, 1)
        check_section(self.task)

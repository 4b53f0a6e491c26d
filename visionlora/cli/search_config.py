"""The schema of ``visionlora.search``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.common.config import at_least
from visionlora.common.errors import UserError
from visionlora.runs.config import TrainConfig
from visionlora.tasks.registry import kind_of


@dataclass
class SpaceConfig:
    """What ``visionlora.search`` looks for. ``space`` has a list of choices or ``{low, high, log}`` for a key of the command line."""

    trials: int = 20
    timeout: float | None = None
    metric: str | None = None
    prune: bool = True
    startup: int = 5
    space: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("search.trials", self.trials, 1)
        at_least("search.startup", self.startup, 1)
        if self.metric is not None and not self.metric.startswith("val/"):
            raise UserError(f"search.metric={self.metric}: settings are chosen by validation, so it begins with val/, as val/loss does.")
        self.space = {key: _choices(key, values) for key, values in self.space.items() if values is not None}
        if not self.space:
            raise UserError("search.space is empty; name a key with a list of choices or {low, high, log}.")


def _choices(key: str, values: Any) -> Any:
    if isinstance(values, list) and values:
        return values
    numbers = isinstance(values, dict) and {"low", "high"} <= set(values) <= {"low", "high", "log"}
    if not numbers or not values["low"] < values["high"] or (values.get("log") and not values["low"] > 0):
        raise UserError(f"search.space: {key}={values} must be a list of choices or {{low: NUMBER, high: LARGER, log: true or false}}.")
    return {"log": False, **values}


@dataclass(kw_only=True)
class SearchConfig(TrainConfig):
    """One call of ``visionlora.search``: a run's config, and what to vary of it."""

    search: SpaceConfig

    @property
    def metric(self) -> str:
        """What is to be improved."""
        return self.search.metric or f"val/{kind_of(self.task).lead().key}"

"""The schemas of the commands beside ``visionlora.train``; free of torch, as ``config.py`` is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.config import TrainConfig, at_least, fraction, listed, one_of
from visionlora.errors import UserError


@dataclass
class EvaluateConfig:
    """One call of ``visionlora.evaluate``. ``run`` is a run folder or a list of them."""

    run: Any
    split: str = "test"
    data: Any = None
    root: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    compare: bool = False
    temperature: bool = False
    figures: bool = True

    def __post_init__(self) -> None:
        one_of("split", self.split, ("train", "val", "test"))
        if self.data is not None and (not isinstance(self.data, dict) or "name" not in self.data):
            raise UserError("data is another source than the run's, as in data=imagefolder data.root=DIR.")

    @property
    def runs(self) -> list[str]:
        return listed(self.run)


@dataclass
class PredictConfig:
    """One call of ``visionlora.predict``."""

    run: Any
    input: Any
    topk: int = 3
    batch_size: int = 32
    num_workers: int | None = None
    output: str = "predictions.csv"
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least("topk", self.topk, 1)
        at_least("batch_size", self.batch_size, 1)
        if self.num_workers is not None:
            at_least("num_workers", self.num_workers, 0)

    @property
    def runs(self) -> list[str]:
        return listed(self.run)

    @property
    def inputs(self) -> list[str]:
        return listed(self.input)


@dataclass
class SpaceConfig:
    """What ``visionlora.search`` looks for. ``space`` has a list of choices or ``{low, high, log}`` for a key of the command line."""

    trials: int = 20
    timeout: float | None = None
    metric: str = "val/top1"
    prune: bool = True
    startup: int = 5
    space: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("search.trials", self.trials, 1)
        at_least("search.startup", self.startup, 1)
        if not self.metric.startswith("val/"):
            raise UserError(f"search.metric={self.metric}: settings are chosen by validation, so it begins with val/, as val/top1 does.")
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


@dataclass
class ExplainConfig:
    """One call of ``visionlora.explain``."""

    run: str
    input: str | None = None
    most: int = 12
    method: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        at_least("most", self.most, 1)
        one_of("method", self.method, ("auto", "gradcam", "rollout"))


@dataclass
class ReportConfig:
    """One call of ``visionlora.report``. ``runs`` is a folder or a list of folders."""

    runs: Any
    metric: str | None = None
    output: str = "report"
    top: int = 20
    columns: list[str] | None = None
    baseline: Any = None

    def __post_init__(self) -> None:
        at_least("top", self.top, 1)
        if self.baseline is not None and not isinstance(self.baseline, str | int):
            raise UserError(
                f"baseline={self.baseline} must be one configuration's name, as in baseline='\"lora.r=4\"', or its number in the ranking."
            )
        if not isinstance(self.runs, str) and not (isinstance(self.runs, list) and all(isinstance(run, str) for run in self.runs)):
            raise UserError(f"runs={self.runs} must be a folder or a list of folders.")

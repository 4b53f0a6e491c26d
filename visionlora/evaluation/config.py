"""The schemas of ``visionlora.evaluate``, ``visionlora.predict`` and ``visionlora.explain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visionlora.common.config import at_least, fraction, listed, one_of
from visionlora.common.errors import UserError

TTA = ("none", "flip", "crops", "scales")
"""Views whose outputs are averaged, see ``runs.tta``."""
AVERAGES = ("none", "weights", "logits")
"""What of several runs is averaged, see ``evaluation.averaging``."""


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
    tta: str = "none"
    average: str = "none"
    rank: int | None = None
    output: str | None = None
    figures: bool = True

    def __post_init__(self) -> None:
        one_of("average", self.average, AVERAGES)
        self._check_average()
        one_of("split", self.split, ("train", "val", "test"))
        one_of("tta", self.tta, TTA)
        if self.data is not None and (not isinstance(self.data, dict) or "name" not in self.data):
            raise UserError("data is another source than the run's, as in data=imagefolder data.root=DIR.")

    def _check_average(self) -> None:
        if self.average != "weights" and (self.rank is not None or self.output is not None):
            raise UserError("rank and output are for average=weights, which makes one adapter of several.")
        if self.average == "none":
            return
        if self.rank is not None:
            at_least("rank", self.rank, 1)
        if len(self.runs) < 2:
            raise UserError(f"average={self.average} is of several runs, as in run=[DIR1,DIR2].")
        for key, on in {"compare": self.compare, "temperature": self.temperature, "tta": self.tta != "none"}.items():
            if on:
                raise UserError(f"average={self.average} prints a table of its own, without {key}; leave {key} out.")

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
    tta: str = "none"
    average: str = "none"
    threshold: float | None = None
    output: str = "predictions.csv"
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least("topk", self.topk, 1)
        one_of("tta", self.tta, TTA)
        one_of("average", self.average, ("none", "logits"))
        if self.average != "none" and len(self.runs) < 2:
            raise UserError(f"average={self.average} is of several runs, as in run=[DIR1,DIR2].")
        if self.threshold is not None:
            fraction("threshold", self.threshold)
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

"""The schema of ``visionlora.report``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visionlora.common.config import at_least
from visionlora.common.errors import UserError


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

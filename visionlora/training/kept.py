"""What is kept of the update and of the trained head, and what was tried: a record, kept in the run folder where folds chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError
from visionlora.common.files import replace_file
from visionlora.common.reading import read_json, sealed_json
from visionlora.common.typed import typed


@dataclass(frozen=True)
class Tried:
    """One model between the probe and the trained one, measured on images that it was not trained on.

    Args:
        update: share of the update.
        head: share of the trained head.
        score: the leading measure of the task.
        loss: of the task.
    """

    update: float
    head: float
    score: float
    loss: float


@dataclass(frozen=True)
class Strength:
    """What is kept, and all that was tried; nothing of either where all is kept without a try.

    Args:
        kept: of those tried.
        tried: each model between.
        images: that they were measured on.
        folds: of cross-validation, 0 for the validation part.
        figures: ``val/*`` of what is kept, where they are of cross-validation.
        settled: options of the task that the outputs of what is kept choose, where they are of cross-validation.
    """

    kept: Tried | None = None
    tried: Sequence[Tried] = ()
    images: int = 0
    folds: int = 0
    figures: Mapping[str, float] | None = None
    settled: Mapping[str, Any] | None = None

    @property
    def results(self) -> dict[str, float]:
        """Keys of ``results.json``."""
        if self.kept is None:
            return {}
        return {"strength/update": self.kept.update, "strength/head": self.kept.head, **(self.figures or {})}

    @property
    def where(self) -> str:
        """The images, in words."""
        return (
            f"{self.images} training images, each by a model of the {self.folds} folds that has not seen it"
            if self.folds
            else (f"the {self.images} validation images")
        )

    def write(self, file: Path) -> None:
        """Keep it, for the run's resume."""
        replace_file(file, sealed_json(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Strength:
        """What ``write`` wrote.

        Raises:
            UserError: it is damaged.
        """
        try:
            known = typed(_File, read_json(file))
            return cls(Tried(**known.kept), [Tried(**one) for one in known.tried], known.images, known.folds, known.figures, known.settled)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}.") from None


@dataclass(frozen=True)
class _File:
    kept: dict[str, float]
    tried: list[dict[str, float]]
    images: int
    folds: int
    figures: dict[str, float] | None
    settled: dict[str, Any] | None = None

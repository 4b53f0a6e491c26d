"""What a task is made of: the check of batches, a baseline, predictions; and the images that an outcome is of. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Targets(Protocol):
    """Sees that the targets of every batch, and the model's outputs for them, are what the task takes."""

    def of(self, batch: Any, part: str) -> Tensor:
        """The targets of a batch ``(images, targets)``; ``part`` names the batch in the sentence of a ``UserError``."""

    def fit(self, outputs: Tensor, part: str) -> Tensor:
        """The outputs themselves, or a ``UserError``."""

    def tell(self, part: str) -> None:
        """Called once an epoch: raise what could only be noted, on a device that should not be waited for in every batch."""


class Baseline(Protocol):
    """What can be predicted from frozen features without a step of training; it is shown features of some training images first."""

    def learn(self, features: Tensor, targets: Tensor) -> None:
        """Take in ``features (N, D)``, float64 where the device has it, with their targets."""

    def totals(self) -> Tensor | None:
        """What has been taken in, as sums, which are added up over processes; ``None`` when nothing has come."""

    def settle(self, totals: Tensor) -> None:
        """Called once with the sums of all processes, before the first prediction."""

    def predict(self, features: Tensor) -> Tensor:
        """Outputs ``(N, ...)`` like the model's, for ``features (N, D)``."""


class Prediction(Protocol):
    """What a model says of one image."""

    @property
    def path(self) -> str:
        """The image's file, or its place among those that were asked for."""

    @property
    def error(self) -> str:
        """Why there is no prediction; ``""`` where there is one."""

    def row(self, most: int) -> dict[str, Any]:
        """The columns of the table that ``predict`` writes, beside path and error; the same ones for every image."""

    def cells(self) -> tuple[str, ...]:
        """As ``Task.columns`` asks for them, for the terminal; a cell may have several lines."""

    def brief(self) -> str:
        """In a few words, for the title of a plot."""


class PartImages(Protocol):
    """The images of a part of the data, opened one at a time."""

    @property
    def names(self) -> list[str]:
        """What tells each image from the others."""

    @property
    def paths(self) -> Sequence[Path]:
        """Their files; empty where there are none."""

    def open(self, index: int, channels: int, detail: int | None = None) -> Image:
        """Image ``index``; ``detail`` is the least number of pixels a side that are wanted of it."""

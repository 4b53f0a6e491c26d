"""What a task is made of: the check of batches, a baseline, predictions, outcomes and the images that they are of. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor, nn

    from visionlora.tasks.task import Task


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


class Finding(Protocol):
    """How a runtime makes boxes of a model's outputs, with its own suppression of boxes that lie over each other."""

    @property
    def module(self) -> nn.Module:
        """From outputs ``(N, ...)`` to boxes ``(N, K, 4)``, scores ``(N, classes, K)`` and the rows that they are of, ``(N, K)``."""

    @property
    def overlap(self) -> float:
        """Intersection over union from which the less likely of two boxes of a class is dropped."""

    @property
    def least(self) -> float:
        """Score up to which a box is none."""

    @property
    def most(self) -> int:
        """Boxes of a class in an image that are kept."""

    def differs(self, found: Tensor, outputs: Tensor) -> bool:
        """Whether ``found (M, 8)``, as ``exporting.found`` has it, are other boxes than those in ``outputs (N, ...)``."""


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


class Outcome(Protocol):
    """A model's outputs for one part of the data, and what they are worth; ``PlainOutcome`` is one, and most are made from it."""

    @property
    def task(self) -> Task:
        """What the outputs are for."""

    @property
    def split(self) -> str:
        """Name of the part."""

    @property
    def outputs(self) -> Tensor:
        """Of the model, float32 ``(N, ...)``."""

    @property
    def targets(self) -> Tensor:
        """``(N, ...)``, as the batches had them."""

    @property
    def images(self) -> PartImages:
        """The images themselves, in the same order."""

    @property
    def seconds(self) -> float:
        """The forward passes took, data aside."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Images that could not be read, and why; they are none of those above."""

    @property
    def tests(self) -> str:
        """A sentence on what interval and p are."""

    def metrics(self) -> dict[str, float]:
        """``SPLIT/KEY`` for the loss and each measure of the task, and ``SPLIT/unreadable``."""

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the leading measure; ``None`` where none is known."""

    def p_against(self, other: Any) -> float | None:
        """p of a test that this one and another on the same images are equally good; ``None`` where there is no test."""

    def rows(self) -> list[dict[str, Any]]:
        """A row an image, the unreadable ones among them, for ``predictions.csv``."""

    def details(self) -> dict[str, Any]:
        """Files of JSON that are written beside the rows, by name: ``{"classes.json": …}``."""

    def plots(self) -> dict[str, Figure | None]:
        """Plots by name; ``None`` where there is nothing to draw this time, so that an earlier one is removed."""

    def page(self) -> str | None:
        """``mistakes.html``, or ``None`` where nothing is wrong or the task has no such page."""

    def tell(self) -> None:
        """Print what is to be said beside the metrics."""

    def calibrated(self, validation: Any) -> dict[str, float]:
        """What ``temperature=true`` adds to the metrics, from the outcome on the validation part, where the task ``calibrates``."""

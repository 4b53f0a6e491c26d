"""A model's outputs for one part of the data, and what they are worth: what ``evaluate`` and ``compress`` show, for any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from visionlora.tasks.interfaces import Outcome, PartImages
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PlainOutcome:
    """What every task has of an outcome; a task may give a subclass, which shows more. See ``Outcome`` for what the methods are.

    Args:
        task: what the outputs are for.
        split: name of the part.
        outputs: of the model, float32 ``(N, ...)``.
        targets: ``(N, ...)``, as the batches had them.
        images: the images themselves, in the same order.
        seconds: the forward passes took, data aside.
        unreadable: images that could not be read, and why; they are none of those above.
    """

    tests: ClassVar[str] = ""  # what interval and p are, a sentence

    task: Task
    split: str
    outputs: Tensor
    targets: Tensor
    images: PartImages
    seconds: float = 0.0
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """``SPLIT/KEY`` for the loss and each measure of the task, and ``SPLIT/unreadable``."""
        evaluation = Evaluation(self.task, self.split)
        evaluation.update(self.outputs, self.targets)
        found = {key: float(value) for key, value in evaluation.compute().items()}
        return found | {f"{self.split}/unreadable": len(self.unreadable)}

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the leading measure; ``None`` where none is known."""
        return None

    def p_against(self, other: Outcome) -> float | None:
        """p of a test that this one and another on the same images are equally good; ``None`` where there is no test."""
        return None

    def rows(self) -> list[dict[str, Any]]:
        """A row an image: ``file`` and what ``row`` says. An image that could not be read has its ``file`` and its ``error``."""
        files = [str(path) for path in self.images.paths] or self.images.names
        found = [{"file": file} | self.row(index) | {"file": file} for index, file in enumerate(files)]  # whatever an output is called
        return found + [{"file": name, "error": why} for name, why in self.unreadable.items()]

    def row(self, index: int) -> dict[str, Any]:
        """The columns of one image."""
        target, output = self.targets[index].tolist(), self.outputs[index].tolist()
        values = output if isinstance(output, list) else [output]
        named = {name if name != "true" else "output true": value for name, value in zip(self.task.names, values, strict=True)}
        return {"true": target} | named

    def details(self) -> dict[str, Any]:
        """Files of JSON that are written beside the rows, by name: ``{"classes.json": …}``."""
        return {}

    def plots(self) -> dict[str, Figure | None]:
        """Plots by name; ``None`` where there is nothing to draw this time, so that an earlier one is removed."""
        return {}

    def page(self) -> str | None:
        """``mistakes.html``, or ``None`` where nothing is wrong or the task has no such page."""
        return None

    def tell(self) -> None:
        """Print what is to be said beside the metrics."""

    def calibrated(self, validation: Outcome) -> dict[str, float]:
        """What ``temperature=true`` adds to the metrics, from the outcome on the validation part, where the task ``calibrates``."""
        raise NotImplementedError


def outcome_of(task: Task, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> Outcome:
    """The task's own outcome, or a plain one where it has none; see ``PlainOutcome`` for the arguments."""
    return task.outcome(split, outputs, targets, images, **more) or PlainOutcome(task, split, outputs, targets, images, **more)

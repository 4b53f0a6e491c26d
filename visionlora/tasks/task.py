"""What a kind of work is: the interface of everything that depends on what the labels are. Free of torch until it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from visionlora.common.errors import UserError
from visionlora.tasks.cells import Cells
from visionlora.tasks.interfaces import Baseline, Finding, Outcome, PartImages, Prediction, Targets
from visionlora.tasks.measure import Measure

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.backbone.info import BackboneSpec


Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""``(outputs (N, ...), targets (N, ...)) -> `` one number, as ``torch.nn.functional.cross_entropy`` gives it."""


@dataclass
class NoOptions:
    """For tasks that have no options."""


class Task:
    """A kind of work. A subclass says what its labels are; the rest of visionlora asks it and knows no more.

    A package brings one by an entry point of the group ``visionlora.tasks``, and ``task=NAME`` chooses it; see ``docs/extending.md``.

    Class attributes:
        name: as in ``task=NAME``.
        measures: what is logged and told, the first of which leads: it chooses the best epoch, and ranks runs and trials.
        loss_words: what ``val/loss`` is, for the axis of a plot.
        hub: the Hugging Face hub's name of the task.
        output_words: what an output stands for, and the plural of it: class, classes.
        group_words: what one group and several of ``groups`` are.
        settled: keys of ``section`` that ``settle`` chooses, numbers or lists of numbers.
        classifies: whether an image is one of the outputs, whose softmax says how likely each is, as of pretrained classifiers.
        calibrates: whether outcomes have a temperature, see ``Outcome.calibrated``.
        baseline_words: what ``test_before/*`` is measured with.
        columns: headings of ``Prediction.cells``.
        balances: what ``data.balance`` can be beside ``none``.
        whole_view: a part of an image may not have what the image is labelled with, so that all of it is shown: the usual
            ``data.crop_scale`` counts as null.
        Options: a dataclass of the keys that may stand beside ``name`` in the section ``task`` of a config.

    Args:
        names: of the model's outputs, in their order: classes for a classifier.
        options: an instance of ``Options``; by default one of its defaults.
    """

    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    loss_words: ClassVar[str] = "loss"
    hub: ClassVar[str] = "image-feature-extraction"
    output_words: ClassVar[tuple[str, str]] = ("output", "outputs")
    group_words: ClassVar[tuple[str, str]] = ("group", "groups")
    settled: ClassVar[tuple[str, ...]] = ()
    classifies: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    baseline_words: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("prediction",)
    balances: ClassVar[tuple[str, ...]] = ()
    whole_view: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init__(self, names: Sequence[str], options: Any = None) -> None:
        self.names = list(names)
        self.options = self.Options() if options is None else options
        self.counts: list[int] | None = None  # training images of each group, where the data have been seen
        self.balance = "none"  # data.balance

    @classmethod
    def lead(cls) -> Measure:
        """The measure that ranks runs and trials."""
        return cls.measures[0]

    def leading(self) -> Measure:
        """The measure that chooses the best epoch for the images at hand; by default ``lead``."""
        return self.lead()

    @classmethod
    def every_measure(cls) -> tuple[Measure, ...]:
        """The measures, and the loss last."""
        return *cls.measures, Measure("loss", cls.loss_words, share=False, higher=False)

    def section(self) -> dict[str, Any]:
        """The section ``task`` of a config that makes it again, without the names: options that are not the usual ones."""
        usual = asdict(self.Options())
        return {"name": self.name, **{key: value for key, value in asdict(self.options).items() if value != usual[key]}}

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for an image."""
        return len(self.names)

    # Data.

    def check_names(self, source: str) -> None:
        """See that the names of a source, which ``source`` is in words, do for this task.

        Raises:
            UserError: they do not.
        """

    def groups(self, labels: Sequence[Any]) -> list[int] | None:
        """A number for each label, so that every part of a split has its share of every number, and ``data.per_class`` counts by them;
        ``None`` where labels make no groups.
        """
        return None

    def every_group(self, labels: Sequence[Any]) -> list[int]:
        """The groups that there must be images of; ``labels`` are those of all training images."""
        return sorted(set(self.groups(labels) or ()))

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        """What the label cells of a table say: names of the outputs, and by part the label of each row.

        Raises:
            UserError: a cell is none of this task's labels, with its line; or the task reads no tables.
        """
        raise UserError(f"{cells.file}: task={cls.name} reads no labels from a table.")

    def as_cells(self, label: Any) -> dict[str, Any]:
        """A label as keys of JSON, from which ``of_cells`` reads it.

        Raises:
            UserError: the task reads no labels from text.
        """
        raise UserError(
            f"task={self.name} has no labels in text, which shards keep; visionlora.pack is for task=classify, ordinal, multilabel and"
            " regression."
        )

    def look_at(self, labels: Sequence[Any]) -> None:
        """Learn what the labels of the training part say, such as how large they are, before anything is made of them.

        Raises:
            UserError: they are none of this task's.
        """

    def in_words(self, label: Any) -> str:
        """A label, or a number of ``groups``, as it is shown to people."""
        return str(label)

    def of_folder(self, path: Path) -> str | None:
        """What is true of an image in words, as far as the folder it is in tells."""
        return None

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        """Labels as a batch has them, ``(N, ...)``."""
        raise NotImplementedError

    # Training.

    def targets(self) -> Targets:
        """What checks the batches of one module."""
        raise NotImplementedError

    def criterion(self, smoothing: float = 0.0) -> Loss:
        """The loss that is minimised; a module or a function.

        Args:
            smoothing: ``optim.label_smoothing``, for losses that have such a thing. It is 0 for what is measured.
        """
        raise NotImplementedError

    def soft(self, targets: Tensor) -> Tensor:
        """Targets ``(N, ...)`` as numbers that can be mixed, ``(N, outputs)``: what mixup and CutMix make targets of.

        Raises:
            UserError: the task's targets cannot be mixed.
        """
        raise UserError(f"data.mixup and data.cutmix mix targets, which those of task={self.name} cannot be; leave them at 0.")

    def settle(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """Options that images which were not trained on choose, such as thresholds, by what the trained model gives for them.

        Args:
            outputs: ``(N, ...)``, on the CPU.
            targets: ``(N, ...)``, of the same images.
        """
        return {}

    def tell_from(self, threshold: float) -> None:
        """Tell what has this score or more, from 0 to 1, in place of the threshold that was settled.

        Raises:
            UserError: the task has none.
        """
        ways = {"threshold": threshold, "thresholds": [threshold]}
        own = {key: value for key, value in ways.items() if key in self.settled}
        if not own:
            raise UserError(f"threshold={threshold:g} is for tasks that have one, boxes and several labels; task={self.name} has none.")
        self.options = replace(self.options, **own)

    def meet(self, spec: BackboneSpec) -> None:
        """Learn which model it is that gives the outputs, before anything is made of them.

        Raises:
            UserError: it gives none that this task can use; by default every model does.
        """

    @property
    def means_images(self) -> bool:
        """Whether the training loss of a batch is the mean of its images' losses, so that it can be reckoned in portions."""
        return True

    def training_criterion(self, smoothing: float = 0.0) -> Loss:
        """The loss of training alone; by default ``criterion``. It is where ``balance`` counts."""
        return self.criterion(smoothing)

    def metrics(self) -> dict[str, Metric]:
        """One of torchmetrics for each of ``measures`` that is logged, by its key; new ones at each call."""
        raise NotImplementedError

    # Before and beside training, from features (N, D) of the frozen backbone.

    def baseline(self) -> Baseline | None:
        """What ``test_before/*`` is measured with; ``None`` for none."""
        return None

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best linear layer on frozen features: ``weight (outputs, D)`` and ``bias (outputs,)``.

        Raises:
            UserError: the task has none.
        """
        raise UserError(f"task={self.name} has no probe of frozen features.")

    def start_of_head(
        self, weight: np.ndarray, bias: np.ndarray, features: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a head that starts as the probe starts as, for training; by default the probe itself.

        Args:
            weight: of the probe.
            bias: of the probe.
            features: that it was fitted to.
            targets: of the same images.
        """
        return weight, bias

    # Results.

    def compared(self, results: Mapping[str, Any]) -> tuple[bool, str] | None:
        """Whether the test is better than before, beyond chance, and that in a sentence or two; ``None`` where chance is not known, and
        what is said is whether the leading measure is better.
        """
        return None

    def doubts(self, results: Mapping[str, Any]) -> str:
        """A sentence on what the validation part is too small for; ``""`` where it is not."""
        return ""

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Prediction]:
        """What the model says of images.

        Args:
            names: of the images.
            outputs: of the model, ``(N, ...)``, on the CPU.
            most: how many answers an image gets, where there can be several (``topk``).
        """
        raise NotImplementedError

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Targets ``(N, ...)`` of several batches as one."""
        import torch

        return torch.cat(list(parts))

    def condensed(self, outputs: Tensor) -> Tensor:
        """What an evaluation keeps of outputs ``(N, ...)``, of which those of a whole part may not fit into memory; by default all."""
        return outputs

    @classmethod
    def same_rows(cls, found: Tensor, wanted: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
        """What two libraries gave for the same images, as far as it is of the same things: all of it, unless a model chooses what it looks
        at, which rounding may change.

        Args:
            found: outputs ``(N, ...)``.
            wanted: those that it should have been.
            outputs: number of the model's outputs.
        """
        return found, wanted

    def looked_at(self, outputs: Tensor) -> Tensor:
        """The number that a map of what a model looks at explains, of the outputs ``(outputs,)`` of one image: the largest, by default."""
        return outputs.max()

    def why_no_mean(self, spec: BackboneSpec) -> str:
        """Why the outputs of several models ``spec`` cannot be averaged; ``""`` where they can."""
        return ""

    def averaged(self, outputs: Tensor) -> Tensor:
        """One output ``(N, ...)`` for several ``(V, N, ...)`` of the same images, as of a model's views; by default their mean."""
        return outputs.mean(0)

    def unreadable(self, name: str, why: str) -> Prediction:
        """What stands for an image that cannot be read."""
        raise NotImplementedError

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> Outcome | None:
        """The outputs for a part of the data as what ``evaluate`` shows; ``None`` for the plain one. See ``PlainOutcome``."""
        return None

    # Exports.

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        """What a model is, for its card: ``An image classifier of 2 classes (cat, dog)``; ``names`` may be empty."""
        return f"A model for {cls.name} with {outputs} outputs"

    @classmethod
    def limits(cls) -> str:
        """A sentence for the model's card on what it cannot do."""
        return ""

    @classmethod
    def finding(cls, outputs: Tensor, number: int) -> Finding | None:
        """What a graph of ONNX gives beside ``outputs (N, ...)``, here of some images; ``number``: of the model's outputs."""
        return None

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        """Python that prints what ``logits (1, outputs)``, of NumPy, say; ``named``: the JSON ``file`` has names as ``classes``, and
        options that are not the usual ones as ``task``.
        """
        return ["print(logits[0])"]

    @classmethod
    def found_code(cls, named: bool, file: str) -> list[str]:
        """The same of ``found (M, 8)``, where ``finding`` makes it of the outputs; empty where it does not."""
        return []

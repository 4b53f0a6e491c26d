"""One class an image, of classes that have an order."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.text import in_brackets
from visionlora.tasks.cells import Cells
from visionlora.tasks.classify.prediction import Prediction
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.one_class import OneClass
from visionlora.tasks.ordinal.reading import numbers, ranked
from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.tasks.ordinal.baseline import RankMeans
    from visionlora.tasks.ordinal.outcome import OrdinalOutcome

NAMED = 20
"""Classes that are named."""


class Ordinal(OneClass):
    """Every image is of one class, and classes are before and after each other; see ``ordinal.ranks`` for what the outputs are."""

    name = "ordinal"
    measures = (
        Measure("mae", "mean absolute error", "MAE", share=False, higher=False),
        Measure("accuracy", "accuracy", hub="accuracy"),
        Measure("qwk", "quadratic weighted kappa", "QWK", share=False),
        Measure("mae_low", "mean absolute error, 95% interval from", share=False, higher=False, spread=False),
        Measure("mae_high", "mean absolute error, 95% interval to", share=False, higher=False, spread=False),
    )
    loss_words = "cross-entropy, the sum over thresholds"

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        return ranked(cells)

    def check_names(self, source: str) -> None:
        if len(self.names) < 2:
            raise UserError(f"{source} has one class only ({self.names[0]!r}); an order needs two.")
        known = numbers(self.names)
        if known and known != sorted(known) and known != sorted(known, reverse=True):
            raise UserError(
                f"{source}: the classes are numbers, and in sorted order ({', '.join(self.names[:NAMED])}) they are not in that of the"
                " numbers; data.classes=FILE with a class a line gives the order."
            )
        if not known and not process_rank():
            shown = " < ".join(self.names[:NAMED]) + " < …" * (len(self.names) > NAMED)
            print(f"The order of the classes: {shown} (data.classes=FILE with a class a line gives another).", file=sys.stderr)

    def look_at(self, labels: Sequence[Any]) -> None:
        if not all(isinstance(label, int) for label in labels):
            raise UserError("task=ordinal learns classes that have an order, and the labels of the data are no classes.")

    def of_folder(self, path: Path) -> str | None:
        return path.parent.name if path.parent.name in self.names else None

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.ordinal.ranks import loss

        return functools.partial(loss, smoothing=smoothing)  # which can be sent to another process

    def soft(self, targets: Tensor) -> Tensor:
        from visionlora.tasks.ordinal.ranks import steps

        return steps(targets, self.outputs)

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.ordinal.metrics import metrics

        return metrics(self.outputs)

    def baseline(self) -> RankMeans:
        from visionlora.tasks.ordinal.baseline import RankMeans

        return RankMeans(self.outputs)

    def probe(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        from visionlora.tasks.multilabel.probe import one_against_all

        return one_against_all(features, np.arange(self.outputs) <= targets[:, None])

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        from visionlora.tasks.ordinal.ranks import probabilities, ranks

        found = []
        for name, shares, rank in zip(names, probabilities(outputs).tolist(), ranks(outputs).tolist(), strict=True):
            order = sorted(range(self.outputs), key=lambda k: (k != rank, -shares[k]))[:most]  # the median first, then the likeliest
            found.append(Prediction(name, tuple(self.names[k] for k in order), tuple(shares[k] for k in order)))
        return found

    def looked_at(self, outputs: Tensor) -> Tensor:
        return outputs[1:].sum()  # how far up it is; the first output says nothing

    def averaged(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid().mean(0).logit(eps=1e-7)

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> OrdinalOutcome:
        from visionlora.tasks.ordinal.outcome import OrdinalOutcome

        return OrdinalOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        return f"A model that ranks images by {outputs} classes in order{in_brackets(names, ' < ')}"

    @classmethod
    def limits(cls) -> str:
        return "It knows its classes and their order, and no others: an image of something else gets one of them."

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        read = [f'with open("{file}", encoding="utf-8") as file:', '    classes = json.load(file)["classes"]']
        return [
            *(read if named else []),
            "beyond = np.minimum.accumulate(1 / (1 + np.exp(-logits[0][1:])))  # probability of each class but the first, or one after it",
            "rank = int((beyond > 0.5).sum())",
            f"print({'classes[rank]' if named else 'rank'})",
        ]

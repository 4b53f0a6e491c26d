"""What a detector's output means: boxes of anchors. All places are shares of the model's square input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection
from torchvision.ops import batched_nms

from visionlora.common.errors import UserError

OVERLAP = {"fcos": 0.6, "retinanet": 0.5}
"""Intersection over union from which the less likely of two boxes of a class is dropped, as in torchvision's detectors."""
LEAST, CANDIDATES, KEPT = 0.01, 1000, 100
"""Score below which nothing is looked at, boxes of an image that are looked at, and that are kept."""
COLUMNS = 6
"""Of a detection: class, score, left, top, right, bottom."""


@dataclass(frozen=True)
class Said:
    """What the head says of the anchors of a batch.

    Args:
        anchors: ``(N, A, 4)``.
        regression: of boxes, relative to the anchors, ``(N, A, 4)``.
        centreness: logits ``(N, A, 1)`` of how near the middle of its object an anchor is; ``None`` where the head does not say it.
        logits: of the classes, ``(N, A, classes)``.
    """

    anchors: Tensor
    regression: Tensor
    centreness: Tensor | None
    logits: Tensor

    @classmethod
    def of(cls, outputs: Tensor, classes: int) -> Said:
        """The columns of ``outputs (N, A, 8 + (0 or 1) + classes)``."""
        more = outputs.shape[2] - 8 - classes
        return cls(outputs[..., :4], outputs[..., 4:8], outputs[..., 8:9] if more else None, outputs[..., 8 + more :])

    @property
    def kind(self) -> str:
        """The detector's: FCOS has a centre-ness, RetinaNet has none."""
        return "retinanet" if self.centreness is None else "fcos"

    def scores(self) -> Tensor:
        """Of each class at each anchor, ``(N, A, classes)``."""
        found: Tensor = self.logits.sigmoid()
        return found if self.centreness is None else (found * self.centreness.sigmoid()).sqrt()

    def boxes(self) -> Tensor:
        """Left, top, right and bottom, ``(N, A, 4)``."""
        if self.centreness is None:
            flat: Tensor = detection.BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(self.regression.flatten(0, 1), self.anchors.flatten(0, 1))
            return flat.view_as(self.regression)
        return fcos_boxes(self.regression, self.anchors)


def fcos_boxes(regression: Tensor, anchors: Tensor) -> Tensor:
    """Boxes whose sides are so far from the middle of the anchors, in units of the anchors' size."""
    found: Tensor = detection.BoxLinearCoder(normalize_by_size=True).decode(regression, anchors)
    return found


def detections(outputs: Tensor, classes: int) -> Tensor:
    """The likeliest boxes of each image that do not lie over each other, likeliest first: ``(N, KEPT, COLUMNS)``; class -1 is none.

    Raises:
        UserError: the outputs are no detector's.
    """
    if outputs.ndim == 3 and outputs.shape[2] == COLUMNS and outputs.shape[1] == KEPT:
        return outputs
    check(outputs, classes)
    said = Said.of(outputs.float(), classes)
    scores, boxes = said.scores(), said.boxes().clamp(0, 1)
    found = outputs.new_zeros(len(outputs), KEPT, COLUMNS, dtype=torch.float32)
    found[..., 0] = -1
    for image in range(len(outputs)):
        flat = scores[image].flatten()
        best, places = flat.topk(min(CANDIDATES, len(flat)))
        places = places[best > LEAST]
        best = best[best > LEAST]
        kinds, chosen = places % classes, boxes[image][places // classes]
        kept = batched_nms(chosen, best, kinds, OVERLAP[said.kind])[:KEPT]
        found[image, : len(kept)] = torch.cat([kinds[kept, None], best[kept, None], chosen[kept]], dim=1)
    return found


def check(outputs: Tensor, classes: int, part: str = "") -> None:
    """See that outputs are a detector's for so many classes.

    Raises:
        UserError: they are not.
    """
    if outputs.ndim != 3 or outputs.shape[2] - 8 - classes not in (0, 1):
        shape, of = tuple(outputs.shape), f" for a {part} batch" if part else ""
        raise UserError(f"the model gives an output of shape {shape}{of}, which is no detector's of {classes} classes; see model.decoder.")

"""What the numbers of a detector's output are, told by how many columns it has. All places are shares of the model's square input.

======================  ==================  ====================================================================================
detector                columns             of a row
======================  ==================  ====================================================================================
RetinaNet               ``8 + classes``     anchor, box, a logit a class
FCOS                    ``9 + classes``     anchor, box, centre-ness, a logit a class
SSD, SSDLite            ``13 + classes``    anchor, box, units of the box, a logit for the background and one a class
Faster R-CNN            ``6 + 5 classes``   what the row is; a proposal, logits as of SSD, a box a class; or several anchors
Mask R-CNN              784 more            the same, and the logits of a mask of 28 x 28 for the proposals that are given one
======================  ==================  ====================================================================================

No two of these are the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torchvision.models.detection import _utils as detection

from visionlora.backbone.placed.two_stage import NOTHING, PACKED, unpacked
from visionlora.backbone.placed.two_stage_masks import MASKED
from visionlora.backbone.placed.two_stage_masks import SIDE as SIDE_OF_MASKS
from visionlora.common.errors import UserError

OVERLAP = {"fcos": 0.6, "retinanet": 0.5, "ssd": 0.45, "faster_rcnn": 0.5, "mask_rcnn": 0.5}
"""Intersection over union from which the less likely of two boxes of a class is dropped, as in torchvision's detectors."""
TWO_STAGES = ("faster_rcnn", "mask_rcnn")
"""Those that make proposals first."""
UNITS = (10.0, 10.0, 5.0, 5.0)
"""Of the numbers of a box of a proposal: one of its sides is ten of the first, and so on."""


def kind_of(columns: int, classes: int) -> str | None:
    """The detector whose output for so many classes has so many columns; ``None``: it is none's."""
    kinds = {8 + classes: "retinanet", 9 + classes: "fcos", 13 + classes: "ssd", 6 + 5 * classes: "faster_rcnn"}
    kinds[6 + 5 * classes + SIDE_OF_MASKS**2] = "mask_rcnn"
    return kinds.get(columns)


def check(outputs: Tensor, classes: int, part: str = "") -> None:
    """See that outputs are a detector's for so many classes.

    Raises:
        UserError: they are not.
    """
    if outputs.ndim != 3 or kind_of(outputs.shape[2], classes) is None:
        shape, of = tuple(outputs.shape), f" for a {part} batch" if part else ""
        raise UserError(f"the model gives an output of shape {shape}{of}, which is no detector's of {classes} classes; see model.decoder.")


@dataclass(frozen=True)
class Said:
    """What a detector says of the places of a batch: its anchors, or its proposals.

    Args:
        kind: of the detector, a key of ``OVERLAP``.
        anchors: ``(N, A, 4)``.
        regression: of boxes, relative to the anchors, ``(N, A, 4)``, or of Faster R-CNN a box a class, ``(N, A, classes, 4)``.
        logits: of the classes ``(N, A, classes)``, before them one of the background for SSD and Faster R-CNN.
        centreness: logits ``(N, A, 1)`` of FCOS: how near the middle of its object an anchor is.
        there: of Faster R-CNN: which rows are proposals, ``(N, A)``; the others are zeros.
        proposing: of Faster R-CNN: what is said of the anchors that proposals are made of, ``(N, more, OF_ANCHOR)``.
        masks: of Mask R-CNN: the logits of the mask of each proposal, ``(N, A, SIDE²)``.
        masked: of Mask R-CNN: which proposals are given a mask, ``(N, A)``; those of the others are zeros.
    """

    kind: str
    anchors: Tensor
    regression: Tensor
    logits: Tensor
    centreness: Tensor | None = None
    there: Tensor | None = None
    proposing: Tensor | None = None
    masks: Tensor | None = None
    masked: Tensor | None = None

    @classmethod
    def of(cls, outputs: Tensor, classes: int, proposals: int | None = None) -> Said:
        """The columns of ``outputs (N, rows, columns)``; ``proposals``: how many of the rows are, where that is known."""
        kind = kind_of(outputs.shape[2], classes)
        if kind in TWO_STAGES:
            count = cls.proposals(outputs, classes) if proposals is None else proposals
            return cls._of_proposals(str(kind), outputs, classes, count)
        centreness = outputs[..., 8:9] if kind == "fcos" else None
        logits = outputs[..., {"retinanet": 8, "fcos": 9, "ssd": 12}[str(kind)] :]
        return cls(str(kind), outputs[..., :4], outputs[..., 4:8], logits, centreness)

    @staticmethod
    def proposals(outputs: Tensor, classes: int) -> int:
        """How many rows of ``outputs (N, rows, columns)`` are proposals; the same for every image and batch of a model, 0 of one stage."""
        return int((outputs[0, :, 0] != PACKED).sum()) if kind_of(outputs.shape[2], classes) in TWO_STAGES else 0

    @classmethod
    def _of_proposals(cls, kind: str, outputs: Tensor, classes: int, count: int) -> Said:
        rows = outputs[:, :count]
        boxes = rows[..., 6 + classes : 6 + 5 * classes].unflatten(2, (classes, 4))
        there, proposing = rows[..., 0] != NOTHING, unpacked(outputs[:, count:])
        masks, masked = (rows[..., 6 + 5 * classes :], rows[..., 0] == MASKED) if kind == "mask_rcnn" else (None, None)
        logits = rows[..., 5 : 6 + classes]
        return cls(kind, rows[..., 1:5], boxes, logits, there=there, proposing=proposing, masks=masks, masked=masked)

    def scores(self) -> Tensor:
        """Of each class at each anchor, ``(N, A, classes)``."""
        if self.kind in ("ssd", *TWO_STAGES):
            likely = self.logits.softmax(-1)[..., 1:]
            return likely if self.there is None else likely * self.there[..., None]
        found: Tensor = self.logits.sigmoid()
        return found if self.centreness is None else (found * self.centreness.sigmoid()).sqrt()

    def boxes(self) -> Tensor:
        """Left, top, right and bottom, one for all classes or one for each: ``(N, A, 1 or classes, 4)``."""
        if self.kind == "fcos":
            return fcos_boxes(self.regression, self.anchors)[:, :, None]
        each = self.regression if self.regression.ndim == 4 else self.regression[:, :, None]
        anchors = self.anchors[:, :, None].expand_as(each)
        coder = detection.BoxCoder((1.0, 1.0, 1.0, 1.0) if self.kind == "retinanet" else UNITS)
        flat: Tensor = coder.decode_single(each.contiguous().view(-1, 4), anchors.contiguous().view(-1, 4))
        return flat.view(each.shape)

    def mask_boxes(self) -> Tensor:
        """Of Mask R-CNN: where the mask of each proposal lies, in the box of its likeliest class, ``(N, A, 4)``."""
        kinds = self.logits[..., 1:].argmax(-1)
        return self.boxes().gather(2, kinds[..., None, None].expand(-1, -1, 1, 4))[:, :, 0].clamp(0, 1)


def fcos_boxes(regression: Tensor, anchors: Tensor) -> Tensor:
    """Boxes whose sides are so far from the middle of the anchors, in units of the anchors' size."""
    found: Tensor = detection.BoxLinearCoder(normalize_by_size=True).decode(regression, anchors)
    return found

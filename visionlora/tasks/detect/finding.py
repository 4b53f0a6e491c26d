"""How a runtime that has a suppression of its own finds the boxes in a detector's outputs; see ``exporting.found``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from visionlora.tasks.detect.alignment import CLOSE, SHARED
from visionlora.tasks.detect.candidates import Candidates
from visionlora.tasks.detect.layout import KEPT, LEAST
from visionlora.tasks.detect.said import OVERLAP, Said, kind_of


class BoxFinding:
    """What ``detections`` does, cut in two: a module, and the numbers for a runtime's suppression.

    Args:
        outputs: of the detector for some images ``(N, rows, columns)``.
        classes: how many there are.
    """

    least, most = LEAST, KEPT

    def __init__(self, outputs: Tensor, classes: int) -> None:
        self.classes = classes
        self.module = _Places(outputs, classes)
        self.overlap = OVERLAP[str(kind_of(outputs.shape[2], classes))]

    def differs(self, found: Tensor, outputs: Tensor) -> bool:
        """Whether more than a tenth of the boxes of an image are wrong.

        Of boxes with equal scores either may be kept, so the boxes are not compared with ``detections``: each has to be a candidate, no
        two of a class may lie over each other, and of every candidate there is one that is as likely and lies over it.
        """
        candidates = Candidates.of(Said.of(outputs, self.classes, self.module.proposals))
        for image in range(len(outputs)):
            own = found[found[:, 0] == image]
            likely = candidates.scores[image] > LEAST
            wrong = _wrong(own, Candidates(*(each[image, likely] for each in candidates)), self.overlap)
            if wrong > (1 - SHARED) * max(len(own), 1):
                return True
        return False


def _wrong(own: Tensor, candidates: Candidates, overlap: float) -> int:
    """How many boxes are no candidates, lie over another, or are missing, in one image."""
    scores, kinds, rows, boxes = candidates
    class_, score, corners = own[:, 1].long(), own[:, 2], own[:, 3:7]
    alike = kinds[:, None] == class_  # (candidates, found)
    itself = alike & (rows[:, None] == own[:, 7].long())
    itself &= ((boxes[:, None] - corners).abs().amax(2) < CLOSE) & ((scores[:, None] - score).abs() < CLOSE)
    covered = itself | (alike & (box_iou(boxes, corners) > overlap - CLOSE) & (score > scores[:, None] - CLOSE))
    full = torch.bincount(class_, minlength=int(kinds.max()) + 1 if len(kinds) else 0)[kinds] >= KEPT
    twice = (class_[:, None] == class_) & (box_iou(corners, corners) > overlap + CLOSE)
    return int((~itself.any(0)).sum() + (~covered.any(1) & ~full).sum() + twice.triu(1).any(0).sum())


class _Places(nn.Module):
    """From outputs to the boxes that are looked at, ``(N, K, 4)``, their scores ``(N, classes, K)``, of which a box has one, and the rows
    of the outputs that they are of, ``(N, K)``.
    """

    def __init__(self, outputs: Tensor, classes: int) -> None:
        super().__init__()
        self.classes, self.proposals = classes, Said.proposals(outputs, classes)

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = Candidates.of(Said.of(outputs, self.classes, self.proposals))
        own = found.kinds[:, None] == torch.arange(self.classes, device=outputs.device)[:, None]  # (N, classes, K)
        return found.boxes, found.scores[:, None] * own, found.rows

"""The boxes that a detector finds: what is likely enough and does not lie over something likelier."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from visionlora.tasks.detect.candidates import Candidates
from visionlora.tasks.detect.masks import OF_FOUND, columns_of_found
from visionlora.tasks.detect.said import OVERLAP, Said, check

LEAST, KEPT = 0.01, 100
"""Score below which nothing is looked at, and boxes of an image that are kept."""
COLUMNS = 6
"""Of a detection: class, score, left, top, right, bottom; ``OF_FOUND`` more, where it has a mask."""


def detections(outputs: Tensor, classes: int) -> Tensor:
    """The likeliest boxes of each image that do not lie over each other, likeliest first: ``(N, KEPT, COLUMNS)``, of Mask R-CNN
    ``(N, KEPT, COLUMNS + OF_FOUND)``; class -1 is none.

    Raises:
        UserError: the outputs are no detector's.
    """
    if outputs.ndim == 3 and outputs.shape[1] == KEPT and outputs.shape[2] in (COLUMNS, COLUMNS + OF_FOUND):
        return outputs
    check(outputs, classes)
    said = Said.of(outputs.float(), classes)
    candidates = Candidates.of(said)
    columns = COLUMNS if said.masks is None else COLUMNS + OF_FOUND
    found = outputs.new_zeros(len(outputs), KEPT, columns, dtype=torch.float32)
    found[..., 0] = -1
    for image in range(len(outputs)):
        best, kinds, rows, boxes = (each[image, candidates.scores[image] > LEAST] for each in candidates)
        kept = batched_nms(boxes, best, kinds, OVERLAP[said.kind])[:KEPT]
        found[image, : len(kept), :COLUMNS] = torch.cat([kinds[kept, None], best[kept, None], boxes[kept]], dim=1)
        if said.masks is not None and said.masked is not None:
            own = rows[kept]
            chances = said.masks[image, own].sigmoid() * said.masked[image, own, None]  # empty, where it was given none
            found[image, : len(kept), COLUMNS:] = columns_of_found(chances, said.mask_boxes()[image, own])
    return found

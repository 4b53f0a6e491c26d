"""Targets that cannot be used: told with their number, and harmless on a device that cannot be asked in every batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.tasks.checked_targets import CheckedTargets
from visionlora.tasks.detect.targets import BoxTargets
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.segment.targets import MaskTargets
from visionlora.tasks.vectors import VectorTargets

IMAGES = torch.zeros(1, 3, 2, 2)
CASES = {
    "masks": (MaskTargets(3), torch.tensor([[[0, 3], [IGNORED, -1]]]), "2 pixels of a val batch"),
    "boxes": (
        BoxTargets(2),
        torch.tensor([[[0, 0.1, 0.1, 0.5, 0.5], [2, 0.1, 0.1, 0.5, 0.5], [1, 0.5, 0.1, 0.4, 0.5]]]),
        "2 boxes of a val",
    ),
    "numbers": (VectorTargets(2, "a number"), torch.tensor([[1.0, float("nan")]]), "1 targets of a val batch are nan"),
}


@pytest.mark.parametrize(("targets", "wrong", "sentence"), CASES.values(), ids=CASES)
def test_wrong_entries_are_counted_and_told(targets: CheckedTargets, wrong: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        targets.of((IMAGES, wrong), "val")
    targets.tell("val")  # once


@pytest.mark.parametrize(("targets", "wrong", "sentence"), CASES.values(), ids=CASES)
def test_a_batch_is_a_pair_of_tensors(targets: CheckedTargets, wrong: Tensor, sentence: str) -> None:
    for batch in (IMAGES, (IMAGES,), (IMAGES, wrong.tolist())):
        with pytest.raises(UserError, match=f"must be a pair \\(images, {targets.called}\\) of tensors"):
            targets.of(batch, "val")


def test_what_would_stop_a_device_in_the_loss_is_of_no_class() -> None:
    masks, right = MaskTargets(3).read(IMAGES, CASES["masks"][1], "val")
    assert masks.tolist() == [[[0, IGNORED], [IGNORED, IGNORED]]]
    assert right.tolist() == [[[True, False], [True, False]]]
    boxes, _ = BoxTargets(2).read(IMAGES, CASES["boxes"][1], "val")
    assert boxes[0, :, 0].tolist() == [0, -1, -1]

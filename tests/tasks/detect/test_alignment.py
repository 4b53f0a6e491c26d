"""Outputs of two libraries are compared where they are of the same proposals, and refused where too few are."""

from __future__ import annotations

import torch
from torch import Tensor

from visionlora.backbone.placed.two_stage import NOTHING, PACKED, PROPOSAL
from visionlora.tasks.detect.alignment import same_rows

CLASSES = 2


def outputs(count: int = 20) -> Tensor:
    """One image: proposals side by side, one that is lacking, a row of anchors."""
    torch.manual_seed(0)
    rows = torch.randn(1, count + 2, 6 + 5 * CLASSES)
    rows[0, :, 0] = torch.tensor([PROPOSAL] * count + [NOTHING, PACKED])
    left = torch.arange(count) / count
    rows[0, :count, 1:5] = torch.stack([left, left * 0, left + 0.04, left * 0 + 0.5], 1)
    return rows


def test_a_proposal_that_rounding_has_exchanged_is_left_out() -> None:
    wanted, found = outputs(), outputs()
    found[0, 3] = found[0, 3] + 5  # another one in its place
    found[0, 3, 0] = PROPOSAL
    found[0, :20] = found[0, :20].roll(1, 0)  # which moves the others
    one, other = same_rows(found, wanted, CLASSES)
    torch.testing.assert_close(one, other)
    assert len(other) == 1 + 19  # the anchors are compared too


def test_a_wrong_number_is_not_forgiven() -> None:
    wanted, found = outputs(), outputs()
    found[0, 4, 7] += 1
    one, other = same_rows(found, wanted, CLASSES)
    assert float((one - other).abs().max()) == torch.tensor(1.0)
    found = outputs()
    found[0, 21, 2] += 1
    one, other = same_rows(found, wanted, CLASSES)
    assert float((one - other).abs().max()) > 0.9


def test_other_proposals_altogether_are_no_rounding() -> None:
    wanted, found = outputs(), outputs()
    found[0, :5, 1:5] += 0.02
    one, other = same_rows(found, wanted, CLASSES)
    assert one is found
    assert other is wanted


def test_detectors_without_proposals_are_compared_whole() -> None:
    wanted = torch.randn(2, 7, 9 + CLASSES)
    assert same_rows(wanted, wanted, CLASSES)[0] is wanted

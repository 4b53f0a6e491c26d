"""The cost rule: which of the ways of ``ways.py`` a layer takes, from its shapes alone.

``python benchmarks/cost_rule.py`` holds the rule against the four fixed choices, in ``benchmarks/results/cost_rule.json`` and in
``docs/speed.md``: on each of five models a step by the rule takes at most 1 % longer than by the best fixed choice there. The best one
for all five, formed and by factors, takes up to about 2 % longer than the rule. ``--numbers`` times a step with each number below
halved and doubled; no results of that are kept yet.
"""

from __future__ import annotations

from typing import NamedTuple

from visionlora.lora.frozen import is_quantized
from visionlora.lora.kernels.geometry import Layer
from visionlora.lora.kernels.ways import BESIDE, BY_FACTORS, FORMED, WHOLE, Backward, Forward

FORMING_BYTES = 14
"""Bytes moved to form one entry of the weight: float32 read, summed into float32, read again and rounded to bf16 (4 + 4 + 4 + 2).

This is a count, not a measurement.
"""
BESIDE_BYTES = 4
"""Bytes moved to add to one entry of the output or of the input's gradient in bf16: it is read and written (2 + 2).

This is a count, not a measurement.
"""
NARROW = 48
"""The narrower side of a layer's matrix up to which the whole gradient is always taken: the narrow products cost a pass just as well.

The number was set by hand.
"""
NARROW_PER_RANK = 4
"""The same for each rank of the update: the narrow products grow with the rank, the whole gradient does not.

The number was set by hand.
"""


class Plan(NamedTuple):
    """Which way forward and which way back."""

    forward: Forward
    backward: Backward


def plan(layer: Layer, rank: int, positions: int) -> Plan:
    """The cheaper ways for a layer.

    Args:
        layer: the frozen layer.
        rank: of all active adapters together.
        positions: tokens, or pixels of the output, in the whole batch.
    """
    if layer.geometry.one_way:
        return Plan(FORMED, WHOLE)
    raw = layer.raw
    out, inputs, columns = raw.shape[0], raw.shape[1], raw.numel() // raw.shape[0]
    # A weight held in fewer bits would be copied to float32 for the sum, which takes the memory that it saves.
    may_form = raw.dtype.itemsize >= 4 and not is_quantized(raw)
    forms = may_form and FORMING_BYTES * raw.numel() < BESIDE_BYTES * (out + inputs) * positions
    narrow = min(out, columns) <= max(NARROW, NARROW_PER_RANK * rank)
    return Plan(FORMED if forms else BESIDE, WHOLE if narrow else BY_FACTORS)

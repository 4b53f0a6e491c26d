"""The paragraph a training ends with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from visionlora.runs.conclusion import conclusion
from visionlora.tasks.classify.conclusion import gained
from visionlora.tasks.registry import make_task

GOOD = {"test_before/top1": 0.80, "test/top1": 0.95, "images/test": 400, "images/val": 400, "val/top1": 0.95, "steps": 500, "epochs": 5}
FLAT = [0.30, 0.25, 0.22, 0.21, 0.21]


@pytest.mark.parametrize(
    ("changed", "losses", "said", "command"),
    [
        ({}, FLAT, "15.0 points better, beyond chance", "visionlora.evaluate run="),
        ({"test/top1": 0.60}, FLAT, "20.0 points worse, beyond chance", "lora=none"),
        ({"test/top1": 0.60, "method": "none"}, FLAT, "20.0 points worse", "visionlora.evaluate"),  # it is the probe
        ({"test/top1": 0.81}, FLAT, "1.0 points better, which may be chance on so few", "lora=none"),
        ({"test/top1": 0.80}, FLAT, "0.0 points apart, which may be chance", "lora=none"),
        ({"images/test": 12}, FLAT, "15.0 points better, which may be chance", "lora=none"),
        (
            {"images/test": 1, "test_before/top1": 0.0, "test/top1": 1.0},
            FLAT,
            "on 1 test image: 100.0 points better, which may be",
            "lora=none",
        ),
        (
            {"images/val": 20},
            FLAT,
            "The validation part has 20 images, so its 95.0% may be anything from 76% to 99%",
            "visionlora.evaluate",
        ),
        ({"steps": 12}, FLAT, "Only 12 optimizer steps were taken", "trainer.max_epochs=42"),
        ({"steps": 12, "strength/update": 0.0, "strength/head": 0.0}, FLAT, "15.0 points better", "visionlora.evaluate"),  # the probe
        ({"steps": 12, "strength/update": 0.0, "strength/head": 1.0}, FLAT, "Only 12 optimizer steps were taken", "trainer.max_epochs=42"),
        ({"steps": 1, "epochs": 1}, [0.3], "Only one optimizer step was taken", "trainer.max_epochs=100"),
        ({"steps": 0, "epochs": 0}, [], "Nothing was trained", "visionlora.evaluate"),
        ({}, [0.5, 0.4, 0.3], "still fell in the last epoch, from 0.400 to 0.300", "trainer.max_epochs=10"),
        ({}, [0.5, 0.2, 0.4], "was lowest in epoch 2 of 3 and has risen since, from 0.200 to 0.400", "visionlora.evaluate"),
        ({"images/test": 0, "test/top1": None}, FLAT, "no test part: the 95.0% of the validation part has chosen the epoch", "evaluate"),
        ({"images/test": 0, "val/top1": None, "images/val": 0}, [], "neither a test nor a validation part", "evaluate"),
        ({"test_before/top1": None}, FLAT, "Top-1 accuracy is 95.0% on 400 test images (95% interval 92.4% to 96.7%)", "evaluate"),
    ],
)
def test_what_is_said_and_which_command_comes_next(changed: dict[str, Any], losses: list[float], said: str, command: str) -> None:
    curves = {"val/loss": ([float(i + 1) for i in range(len(losses))], losses)}
    text = conclusion(make_task("classify", ["cat", "dog"]), GOOD | changed, curves, Path("outputs/a run"))
    assert said in text
    assert command in text.partition("Next: ")[2]
    assert "'outputs/a run'" in text  # as a shell takes it
    assert not re.search(r"\b(nan|None|inf)\b", text)


@pytest.mark.parametrize(
    ("before", "after", "low", "high"),
    [(3, 9, 0.1705, 0.8090), (0, 10, 0.6075, 1.0)],  # of 10 each: Newcombe 1998, Table II, method 10
)
def test_the_interval_is_newcombes(before: int, after: int, low: float, high: float) -> None:
    assert gained(before / 10, after / 10, 10) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_is_not_a_point_where_all_are_right_or_wrong() -> None:
    assert gained(1.0, 1.0, 10)[0] < -0.2
    assert gained(0.0, 0.0, 10)[1] > 0.2

"""``alpha_pattern``: as PEFT matches it, and never for long."""

from __future__ import annotations

import re
import time

import pytest

from visionlora.lora.alphas import Alphas

LAYERS = (
    "conv1",
    "layer1.0.conv1",
    "layer2.0.conv1",
    "blocks.0.attn.qkv",
    "blocks.11.attn.qkv",
    "blocks.0.mlp.fc1",
    "stages.0.blocks.0.conv",
)
PATTERNS = (
    "conv1", "^conv1", r"^layer1\.0\.conv1", "layer1.0.conv1", "blocks.0", "qkv", r".*\.attn\..*", r"blocks\.\d+\.attn\.qkv", "(qkv|fc1)",
    r"blocks\.[0-9]+\.(attn\.(q|k|qkv)|mlp\.fc1)", "blocks.1{1,2}.attn.qkv", "attn.qkv$", "^blocks.*", r"(?:layer)[12]\.0\.conv1", "c?onv1",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_peft_matches(pattern: str) -> None:
    alphas = Alphas({pattern: 3.0, "mlp": 5.0}, 1.0)
    for layer in LAYERS:
        wanted = 3.0 if re.match(rf"(.*\.)?({pattern})$", layer) else 1.0
        assert alphas.of(layer) == wanted, layer


def test_the_first_that_matches_counts() -> None:
    assert Alphas({"qkv": 2.0, r"attn\..*": 1.0}, 0.0).of("blocks.0.attn.qkv") == 2.0


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+$", "(a|a)*", "(a*)*b", ".*.*.*.*.*.*x", "a?" * 40 + "a" * 40, "(a|aa)" * 30),
        *("(", ")", "[", "*", r"\1", "(?=a)", "(?P<x>a)", "a{2,1}", "a" * 2000 + ".*"),
    ],
)
def test_what_could_take_for_ever_or_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"for ever|not a regular expression|not read from a file"):
        Alphas({pattern: 1.0}, 1.0)


def test_the_worst_that_is_let_through_is_over_in_seconds() -> None:
    started = time.monotonic()
    alphas = Alphas({".*.*.*" + "x" * n: 1.0 for n in range(1, 5)}, 1.0)
    for number in range(300):
        alphas.of(f"stages.{number}.blocks.{number}.attn.projection.a")
    assert time.monotonic() - started < 20

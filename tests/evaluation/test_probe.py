"""A head that starts as the probe leaves the layers below something to learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, compose
from torch import nn

import visionlora as vl
from visionlora.evaluation.probe import start_head
from visionlora.lora.adapter import Adapter
from visionlora.tasks.registry import make_task
from visionlora.training.run import run


@pytest.mark.parametrize(("spread", "stays"), [(0.0, True), (1e-9, True), (1.0, False)])
def test_a_probe_that_says_the_same_of_all_images_is_no_start(spread: float, stays: bool, capsys: pytest.CaptureFixture[str]) -> None:
    data: Any = SimpleNamespace(task=make_task("classify", ["a", "b"]))
    features, targets = 1 + spread * torch.randn(20, 4), torch.tensor([0, 1] * 10)
    weight, bias = data.task.probe(features.numpy(), targets.numpy())
    head = nn.Linear(4, 2)
    before = head.weight.detach().clone()
    start_head(head, data, (torch.from_numpy(weight), torch.from_numpy(bias)), features, targets)
    assert torch.equal(head.weight, before) is stays
    assert ("hardly differ" in capsys.readouterr().out) is stays


def test_a_step_moves_the_adapters_of_a_backbone_whose_features_do_not_differ(tmp_path: Path) -> None:
    """Its layer scales make next to nothing of its random weights."""
    own = (
        "model.name=cspnext_tiny",
        "recipe=auto",
        "model.head_init=probe",
        "data.image_size=64",
        "data.num_images=16",
        "trainer.limit_train_batches=1",
    )
    run(compose(*TINY, *QUIET, *own, "data.val_fraction=0.25", "trainer.max_epochs=1", "trainer=cpu"), tmp_path)
    adapters = [module for module in vl.load(tmp_path).model.modules() if isinstance(module, Adapter)]
    assert any(bool(adapter.lora_B.any()) for adapter in adapters)


def test_a_probe_of_one_class_says_that_class() -> None:
    """As where a plan looks at the first images of class folders alone."""
    weight, bias = make_task("classify", ["a", "b", "c"]).probe(torch.randn(8, 4).numpy(), torch.ones(8, dtype=torch.int64).numpy())
    assert not weight.any()
    assert bias.argmax() == 1

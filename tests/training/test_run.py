"""Every file of ``conf/lora`` and every way to share out a budget, from the command's config to a finished run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, compose, results
from model_parts import tensor
from quickly import quickly

import visionlora as vl
from visionlora.cli.conf import conf_dir
from visionlora.training.run import run

FILES = sorted(path.stem for path in (conf_dir() / "lora").glob("*.yaml"))


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    """A run of three epochs."""
    settings = ("trainer.max_epochs=3", "trainer.precision=32-true", "data.batch_size=16", "logger={}")
    run(compose(*TINY, *QUIET, *settings, *overrides), folder)
    return results(folder)


@pytest.mark.parametrize("lora", quickly(FILES, ("default", "dora", "full", "none", "pissa")))
def test_every_method_trains_and_comes_back(lora: str, tmp_path: Path) -> None:
    figures = trained(tmp_path, f"lora={lora}")
    assert math.isfinite(figures["test/loss"])
    assert (figures["params/adapter"] > 0) == (lora not in ("none", "norm", "full"))
    model = vl.load(tmp_path).model
    logits = model(torch.zeros(1, 3, 160, 160))
    state = torch.load(tmp_path / "checkpoints" / f"{figures['checkpoint']}.ckpt", weights_only=True)["state_dict"]
    assert logits.shape == (1, 4)
    assert torch.equal(tensor(model, "fc.weight"), state["fc.weight"])


def test_ranks_of_adalora_differ_in_the_saved_file(tmp_path: Path) -> None:
    figures = trained(tmp_path, "lora=adaptive", "optim.lr=0.02")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    layers = json.loads((tmp_path / "adapter" / "visionlora.json").read_text())["layers"]
    assert len({layer["r"] for layer in layers.values()}) > 1
    assert config["rank_pattern"]
    assert all(pattern.startswith("^") for pattern in config["rank_pattern"])
    plain = trained(tmp_path / "plain")
    assert figures["params/adapter"] <= plain["params/adapter"]
    assert figures["checkpoint"] == "last"  # an earlier one would be beyond the budget


@pytest.mark.parametrize("allocate", ["uniform", "structure", "importance", "shift"])
def test_a_budget_becomes_ranks(allocate: str, tmp_path: Path) -> None:
    figures = trained(tmp_path, "lora.budget=9000", f"lora.allocate={allocate}", "lora.allocate_batches=2")
    assert 8500 < figures["params/adapter"] <= 9000
    ranks = json.loads((tmp_path / "ranks.json").read_text())
    layers = json.loads((tmp_path / "adapter" / "visionlora.json").read_text())["layers"]
    assert {name: layer["r"] for name, layer in layers.items()} == {name: ranks[name][0] for name in ranks if name != "sha256"}


def test_decay_and_rates_reach_the_training(tmp_path: Path) -> None:
    def size(*overrides: str) -> float:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        trained(folder, *overrides)
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return float(sum(value.square().sum() for key, value in state.items() if key.endswith("lora_B")))

    plain = size()
    assert size("lora.delta_decay=10") < 0.9 * plain
    assert size("lora=loraplus") > 2 * plain


def test_adalora_keeps_its_budget_when_it_is_stopped_early(tmp_path: Path) -> None:
    stopped = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=2")
    figures = trained(tmp_path, "lora=adaptive", *stopped, "trainer.max_epochs=9")
    assert figures["epochs"] < 9
    assert figures["params/adapter"] <= trained(tmp_path / "plain")["params/adapter"]


def test_biases_alone(tmp_path: Path) -> None:
    """BitFit: a probe and every bias."""
    figures = trained(tmp_path, "lora=none", "lora.train_bias=true")
    assert figures["params/trainable"] > trained(tmp_path / "probe", "lora=none")["params/trainable"]
    state = torch.load(tmp_path / "checkpoints" / f"{figures['checkpoint']}.ckpt", weights_only=True)["state_dict"]
    model = vl.load(tmp_path).model
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())

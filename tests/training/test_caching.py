"""Cached features: the same training as without, and a word on why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, compose, results
from quickly import quickly
from safetensors.torch import load_file

import visionlora as vl
from visionlora.data.config import DataConfig
from visionlora.speed.checkpointing import checkpoint_activations
from visionlora.tasks.classify.probe import logistic_regression
from visionlora.training.run import run

LATE = ("lora.targets=[stage4]", "data.hflip=0.5")


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    """A run of three epochs; its head and adapter."""
    settings = ("trainer.max_epochs=3", "trainer.precision=32-true", "data.batch_size=16", "logger={}")
    run(compose(*TINY, *QUIET, *settings, *overrides), folder)
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("where", ["auto", "memory", "disk"])
def test_with_a_view_an_epoch_training_is_what_it_is_without(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = trained(tmp_path / "without", *LATE, "data.cache=off")
    assert "data.cache" not in capsys.readouterr().out
    got = trained(tmp_path / "with", *LATE, f"data.cache={where}")
    said = capsys.readouterr().out
    assert "3 views" in said
    assert "MiB" in said
    assert ("disk" in said) == (where == "disk")
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, rtol=1e-3, atol=1e-5), key
    for key in ("test/top1", "test/loss", "val/loss"):
        assert results(tmp_path / "with")[key] == pytest.approx(results(tmp_path / "without")[key], rel=1e-3)
    assert results(tmp_path / "with")["seconds/cache"] > 0


def test_one_view_where_nothing_is_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, "lora=none", "data.hflip=0", "data.crop_scale=null")
    assert "training images, run up to global_pool once" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("lora.targets=all",), "conv1.0 is trained, and nothing is computed before it"),
        (("lora.targets=[stage4]", "model.freeze_bn=false"), "statistics of"),
        (("lora.targets=[stage4]", "model.checkpointing=blocks"), "computes blocks again"),
        (("lora.targets=[stage4]", "+trainer.limit_predict_batches=1"), "leaves images out"),
    ],
)
def test_auto_says_why_it_is_off_and_a_demand_is_an_error(
    overrides: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "auto", *overrides)
    assert why in " ".join(capsys.readouterr().out.split())
    with pytest.raises(vl.UserError, match=f"data.cache=memory: nothing can be cached, .*{why}"):
        trained(tmp_path / "memory", *overrides, "data.cache=memory")


def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionlora.training.caching.available_memory", lambda: 1000)
    with pytest.raises(vl.UserError, match=r"do not fit in memory; set data\.cache_views lower"):
        trained(tmp_path, *LATE, "data.cache=memory")


def test_unknown_places_are_told() -> None:
    with pytest.raises(vl.UserError, match=r"data\.cache"):
        DataConfig(name="fake", root="", cache="ram")


@pytest.mark.parametrize("classes", [2, 5])
def test_the_probe_separates_what_can_be_separated(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(200) % classes
    features = (random.normal(size=(200, 8)) + 6 * random.normal(size=(classes, 8))[labels]).astype(np.float32) * 3 + 7
    weight, bias = logistic_regression(features, labels, classes)
    assert weight.shape == (classes, 8)
    assert ((features @ weight.T + bias).argmax(1) == labels).mean() > 0.97


def test_the_head_starts_as_the_probe(tmp_path: Path) -> None:
    settings = ("optim.lr=1e-9", "optim.schedule=constant", "data.hflip=0", "data.crop_scale=null")
    trained(tmp_path / "probe", *settings, "model.head_init=probe")
    trained(tmp_path / "random", *settings)
    assert results(tmp_path / "probe")["test/loss"] < results(tmp_path / "random")["test/loss"]
    assert results(tmp_path / "probe")["test/top1"] > 0.9


@pytest.mark.parametrize("how", quickly(["light", "blocks"], 1))
@pytest.mark.parametrize(
    "overrides",
    quickly([("model.name=test_resnet",), ("model.name=test_vit",), ("model=torchvision", "model.name=shufflenet_v2_x0_5")], 1),
    ids=str,
)
def test_checkpointed_training_is_the_same(overrides: tuple[str, ...], how: str, tmp_path: Path) -> None:
    wanted = trained(tmp_path / "plain", *overrides)
    got = trained(tmp_path / "checkpointed", *overrides, f"model.checkpointing={how}")
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, rtol=1e-3, atol=1e-5), key


@pytest.mark.parametrize(("name", "less"), [("timm/test_vit", 0.75), ("timm/test_convnext", 0.8)])
def test_light_checkpointing_holds_less_and_has_the_same_gradients(name: str, less: float) -> None:
    torch.manual_seed(0)
    model = vl.create_backbone(name, 4, pretrained=False).double()
    x = vl.example_batch(model)
    vl.inject(model, vl.LoraConfig(r=2, targets="all"), x)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    vl.fold(model, x)
    model = model.to(memory_format=torch.channels_last).train()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    sizes, found = [], []
    for light in (False, True):
        if light:
            checkpoint_activations(model)
        held: dict[int, int] = {}

        def note(t: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            out = model(x)
        sizes.append(sum(size for pointer, size in held.items() if pointer not in own))
        found.append(torch.autograd.grad(out.square().sum(), [p for p in model.parameters() if p.requires_grad]))
    assert sizes[1] < less * sizes[0]
    for got, wanted in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)

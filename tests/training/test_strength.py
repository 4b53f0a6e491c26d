"""How much of the update is kept: between the probe and the trained model, chosen on the validation part, and in every file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, compose, results
from safetensors.torch import load_file

import visionlora as vl
from visionlora.data.module import ImageData
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder
from visionlora.training import strength
from visionlora.training.run import run

SETTINGS = (
    *TINY,
    *QUIET,
    "data.num_images=128",
    "data.val_fraction=0.25",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
    "logger={}",
)


def trained(folder: Path, *overrides: str) -> vl.Predictor:
    run(compose(*SETTINGS, "optim.strength=auto", *overrides), folder)
    return vl.load(folder)


def outputs(predictor: vl.Predictor, folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the finished run gives for a part of its data, and the labels."""
    run_folder = RunFolder.open(folder)
    data = ImageData(data_config(run_folder), record=run_folder.read_split())
    data.prepare_for(predictor.preprocessing)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.eval_dataloader(part)]
    with torch.no_grad():
        return torch.cat([predictor.model(images) for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_the_kept_model_is_the_best_that_was_tried_and_the_one_that_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = trained(tmp_path)
    found = results(tmp_path)
    assert found["strength/update"] in strength.UPDATES
    assert found["strength/head"] in strength.HEADS
    logits, labels = outputs(predictor, tmp_path, "val")
    assert found["val/top1"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-6)
    assert found["val/loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    logits, labels = outputs(predictor, tmp_path, "test")
    assert found["test/top1"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-6)
    said = capsys.readouterr().out
    assert "optim.strength=auto:" in said
    assert "all of both" in said
    assert "the probe" in said
    assert (tmp_path / "strength.png").stat().st_size > 5_000


def test_without_update_and_with_its_head_it_is_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strength, "UPDATES", (0.0,))
    monkeypatch.setattr(strength, "HEADS", (0.0,))
    predictor = trained(tmp_path)
    folder = RunFolder.open(tmp_path)
    info = predictor.info
    model = vl.create_backbone(info.spec.full_name, info.spec.num_classes, pretrained=False).eval()
    base = folder.read_base()
    assert base is not None
    model.load_state_dict(base)
    data = ImageData(data_config(folder), record=folder.read_split())
    data.prepare_for(predictor.preprocessing)
    head = model.get_submodule(info.head[0])
    rows: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].flatten(1)))
    labels = []
    with torch.no_grad():
        for batch in data.eval_dataloader("train"):
            images, its_labels = data.on_after_batch_transfer(batch, 0)
            model(images)
            labels.append(its_labels)
    weight, bias = data.task.probe(torch.cat(rows).numpy(), torch.cat(labels).numpy())
    rows.clear()
    got, _ = outputs(predictor, tmp_path, "test")
    with torch.no_grad():
        for batch in data.eval_dataloader("test"):
            model(data.on_after_batch_transfer(batch, 0)[0])
    wanted = torch.cat(rows).double() @ torch.from_numpy(weight).double().T + torch.from_numpy(np.asarray(bias)).double()
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-3)


def test_a_share_is_in_the_scaling_that_peft_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strength, "UPDATES", (0.6,))
    trained(tmp_path / "some")
    run(compose(*SETTINGS), tmp_path / "all")
    alphas = [json.loads((tmp_path / name / "adapter/adapter_config.json").read_text())["lora_alpha"] for name in ("some", "all")]
    assert alphas[0] == pytest.approx(0.6 * alphas[1])
    some, everything = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("some", "all"))
    factors = [key for key in some if ".lora_A." in key or ".lora_B." in key]
    assert factors
    assert all(torch.equal(some[key], everything[key]) for key in factors)  # the checkpoint and the factors are those of the training


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("lora.method=dora",), "no straight line"),
        (("lora.train_norm=true",), "norms or biases are trained"),
        (("data.val_fraction=0",), "no validation part"),
        (("lora.train_head=false",), "the head is not trained"),
        (("+trainer.limit_predict_batches=1",), "leaves images out"),
    ],
)
def test_why_it_is_off_is_said(overrides: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, "trainer.max_epochs=1", *overrides)
    said = " ".join(capsys.readouterr().out.split())
    assert "optim.strength=auto is off: " in said
    assert why in said
    assert "strength/update" not in results(tmp_path)
    assert not (tmp_path / "strength.png").exists()


def test_the_head_alone_is_mixed_with_the_probe(tmp_path: Path) -> None:
    trained(tmp_path, "lora=none")
    assert results(tmp_path)["strength/update"] == 1.0
    assert results(tmp_path)["strength/head"] in strength.HEADS


def test_where_the_probe_is_kept_nothing_is_held_out(tmp_path: Path) -> None:
    run(compose(*SETTINGS, "optim.strength=none", "model.head_init=probe", "data.val_fraction=null", "trainer.max_epochs=1"), tmp_path)
    found = results(tmp_path)
    assert found["strength/update"] == 0.0
    assert (found["images/train"], found.get("images/val", 0)) == (128, 0)


def test_a_head_that_cannot_start_as_the_probe_has_images_held_out(tmp_path: Path) -> None:
    model = ("model.source=torchvision", "model.name=squeezenet1_1", "data.image_size=64", "trainer.max_epochs=1")
    run(compose(*SETTINGS, *model, "optim.strength=none", "model.head_init=random", "data.val_fraction=null"), tmp_path)
    found = results(tmp_path)
    assert "strength/update" not in found
    assert found["images/val"] > 0

"""A training whose numbers stop being finite ends with a sentence, and nothing that is not finite is saved, loaded or handed on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import QUIET, TINY, command, unsealed
from quickly import quickly

import visionlora as vl

COMMON = (*TINY, *QUIET, "trainer=cpu", "trainer.max_epochs=3", "data.num_images=64", "data.batch_size=8")
DIVERGING = {
    "rate, no limit": ("optim.lr=1e30", "trainer.gradient_clip_val=null"),
    "bf16": ("optim.lr=1e20", "trainer.precision=bf16-mixed"),
    "full": ("lora=full", "optim.lr=1e25"),
    "rate": ("optim.lr=1e6", "optim.weight_decay=0"),
    "strength": ("lora.alpha=1e38",),
    "dora": ("lora=dora", "optim.lr=1e30"),
    "accumulated": ("optim.lr=1e30", "trainer.accumulate_grad_batches=2"),
}


@pytest.mark.parametrize("name", quickly(DIVERGING, 3))
def test_divergence_ends_the_run(name: str, tmp_path: Path) -> None:
    done = command("train", *COMMON, *DIVERGING[name], f"hydra.run.dir={tmp_path}")
    if done.returncode == 0:  # a huge rate need not lead to infinity; whatever is left is finite then
        assert all(t.isfinite().all() for t in safetensors.torch.load_file(tmp_path / "adapter/adapter_model.safetensors").values())
        assert all(torch.tensor(v).isfinite() for v in json.loads((tmp_path / "results.json").read_text()).values() if isinstance(v, float))
        assert name in ("rate", "strength")
        return
    assert done.returncode == 2, done.stderr
    assert re.search(r"error: (the training diverged in|the logits of a val batch are not finite)", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results.json").exists()
    for checkpoint in (tmp_path / "checkpoints").glob("*.ckpt"):
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(t.isfinite().all() for t in state.values())


def test_the_sentence_names_step_layer_and_files(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders(train={"cat": 12, "dog": 12}, test={"cat": 2, "dog": 2})
    call = [word for word in COMMON if not word.startswith("data")]
    data = ("data=imagefolder", f"data.root={root}", "data.batch_size=8", "data.val_fraction=0")
    done = command("train", *call, *data, "optim.lr=1e30", "trainer.gradient_clip_val=null", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    found = re.search(
        r"step (\d+), epoch 1: the loss is (nan|inf); first not finite is the output of (\S+)\. The batch: (.+)\. Lower", done.stderr
    )
    assert found, done.stderr
    assert int(found[1]) >= 1
    assert len(found[4].split(", ")) == 8
    assert all(re.fullmatch(r"(train/)?(cat|dog)/.+", name) for name in found[4].split(", "))


def test_what_is_not_finite_is_not_loaded(tmp_path: Path) -> None:
    model = vl.create_backbone("timm/test_resnet", 2, pretrained=False)
    vl.inject(model, vl.LoraConfig(r=2))
    next(p for name, p in model.named_parameters() if "lora_B" in name).data[0] = torch.nan
    vl.save_adapter(model, tmp_path)
    fresh = vl.create_backbone("timm/test_resnet", 2, pretrained=False)
    with pytest.raises(vl.UserError, match="not finite"):
        vl.load_adapter(fresh, tmp_path)


@pytest.mark.parametrize("module", quickly(["predict", "evaluate", "export"], 1))
def test_commands_refuse_a_run_that_is_not_finite(module: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command("train", *COMMON, "trainer.max_epochs=1", f"hydra.run.dir={run}").returncode == 0
    weights = run / "adapter" / "adapter_model.safetensors"
    state = safetensors.torch.load_file(weights)
    key = next(key for key in state if "lora_B" in key)
    state[key][0] = torch.inf
    weights.write_bytes(safetensors.torch.save(state, {"format": "pt"}))
    unsealed(run / "adapter")
    picture = tmp_path / "a.png"
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    done = command(module, f"run={run}", *([f"input={picture}"] if module == "predict" else []))
    assert done.returncode == 2
    assert key in done.stderr
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr

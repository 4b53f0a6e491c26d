"""``visionlora.explain``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, command
from model_parts import tensor
from PIL import Image
from torch import nn

import visionlora as vl
from visionlora.evaluation.explaining import gradcam, rollout


def test_gradcam_finds_what_the_class_depends_on() -> None:
    """A model whose class is the brightness of one quarter of the image."""
    pytest.importorskip("pytorch_grad_cam")
    model = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 1, 1), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        tensor(model, "1.weight").fill_(1.0)
        tensor(model, "1.bias").zero_()
        tensor(model, "4.weight").zero_()
        tensor(model, "4.weight")[1].view(8, 8)[:4, :4] = 1.0
    images = torch.zeros(1, 1, 32, 32)
    images[..., :16, :16] = 1.0
    (heat,) = gradcam(model, images, torch.max)
    assert heat.shape == (32, 32)
    assert heat[:12, :12].mean() > heat[20:, 20:].mean() + 0.3


def test_rollout_by_hand() -> None:
    """Products of (attention + identity), rows normalised, as the paper has them."""
    model: Any = vl.create_backbone("timm/test_vit", num_classes=3, pretrained=False, image_size=48).eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    heat = rollout(model, images)
    assert heat.shape == (2, 48, 48)
    assert heat.min() == pytest.approx(0, abs=1e-6)
    assert heat.max() == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(images))
        x = model.norm_pre(x)
        joint = torch.eye(x.shape[1]).expand(2, -1, -1)
        for block in model.blocks:
            inner = block.attn
            n, tokens, dim = x.shape
            qkv = inner.qkv(block.norm1(x)).reshape(n, tokens, 3, inner.num_heads, dim // inner.num_heads).permute(2, 0, 3, 1, 4)
            q, k = inner.q_norm(qkv[0]), inner.k_norm(qkv[1])
            weights = (q @ k.transpose(-2, -1) * inner.scale).softmax(-1).mean(1) + torch.eye(tokens)
            joint = (weights / weights.sum(-1, keepdim=True)) @ joint
            x = block(x)
    side = 48 // 16
    seen = joint[:, 0, model.num_prefix_tokens :].view(2, 1, side, side)
    wanted = torch.nn.functional.interpolate(seen, (48, 48), mode="bilinear")[:, 0]
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    assert torch.allclose(torch.from_numpy(heat), (wanted - low) / (high - low), atol=1e-4)


@pytest.mark.parametrize(("model", "method"), [("test_resnet", "gradcam"), pytest.param("test_vit", "rollout", marks=pytest.mark.slow)])
def test_pictures_of_a_run(model: str, method: str, tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    if method == "gradcam":
        pytest.importorskip("pytorch_grad_cam")
    root = class_folders(train={"cat": 12, "dog": 12})
    data = ("data=imagefolder", f"data.root={root}", "data.image_size=160" if model == "test_vit" else "data.image_size=64")
    run = tmp_path / "run"
    done = command("train", *TINY, *QUIET, *data, f"model.name={model}", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    done = command("explain", f"run={run}", "most=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{method}, 3 images")
    for name in ("explain.png", "changes.png"):
        with Image.open(run / "explain" / name) as sheet:
            assert sheet.size[0] > 300
        assert (run / "explain" / "figures" / name.replace(".png", ".pdf")).read_bytes().startswith(b"%PDF")
    (tmp_path / "broken.jpg").write_text("no image")
    refused = command("explain", f"run={run}", f"input={tmp_path / 'broken.jpg'}")
    assert refused.returncode == 2
    assert "none of the images can be read" in refused.stderr
    if method == "gradcam":
        refused = command("explain", f"run={run}", "method=rollout")
        assert refused.returncode == 2
        assert "try method=gradcam" in refused.stderr


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224"])
def test_other_attention_is_refused_not_drawn(name: str) -> None:
    model = vl.create_backbone(f"timm/{name}", num_classes=3, pretrained=False).eval()
    with pytest.raises(vl.UserError, match="try method=gradcam"):
        rollout(model, torch.randn(1, 3, 224, 224))


def test_data_without_files(tiny_run: Path) -> None:
    done = command("explain", f"run={tiny_run}")
    assert done.returncode == 2
    assert "name images with input=PATH" in done.stderr

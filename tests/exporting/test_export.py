"""Exports: read back by what will read them, compared on real images, the run untouched."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import QUIET, TINY, command, contents, files_below
from PIL import Image
from quickly import quickly
from safetensors.torch import save_file

import visionlora as vl
from visionlora.data.transforms import normalize


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def batch(tiny_run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepared images and the run's logits for them."""
    predictor = vl.load(tiny_run)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (50, 40, 3), np.uint8)) for _ in range(5)]
    prepared = torch.stack([predictor.prepare(picture) for picture in pictures])
    return normalize(prepared, predictor.preprocessing), predictor.logits(prepared)


@pytest.fixture(scope="module")
def exports(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of the run; onnx where its packages are."""
    folder = tmp_path_factory.mktemp("exports")
    before = digest(tiny_run)
    done = command("export", f"run={tiny_run}", "format=[timm,state_dict,pt2]", f"output={folder}")
    assert done.returncode == 0, done.stderr
    assert "Compared on 16 images of the run's data" in done.stdout
    assert digest(tiny_run) == before
    return folder


def close(logits: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((logits - wanted).abs().max() / wanted.abs().max()) <= 1e-4


def test_timm_loads_it(exports: Path, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, wanted = batch
    weights = exports / "timm" / "model.safetensors"
    with torch.inference_mode():
        close(timm.create_model("test_resnet", num_classes=4, checkpoint_path=str(weights)).eval()(images), wanted)
        model = timm.create_model(f"local-dir:{exports / 'timm'}", pretrained=True).eval()  # by its config.json alone
        close(model(images), wanted)
    assert model.pretrained_cfg["label_names"] == [f"class{i}" for i in range(4)]


def test_torch_loads_it(exports: Path, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, wanted = batch
    extra = {"preprocessing.json": ""}
    program = torch.export.load(exports / "pt2" / "model.pt2", extra_files=extra).module()
    with torch.inference_mode():
        close(program(images), wanted)
        close(program(images[:1]), wanted[:1])  # the batch is free
    assert json.loads(extra["preprocessing.json"])["classes"] == [f"class{i}" for i in range(4)]


def test_onnxruntime_loads_it(tiny_run: Path, tmp_path: Path, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    done = command("export", f"run={tiny_run}", "format=onnx", f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    images, wanted = batch
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    for n in (5, 1):
        (logits,) = session.run(None, {"images": images[:n].numpy()})
        close(torch.from_numpy(logits), wanted[:n])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == [f"class{i}" for i in range(4)]
    assert onnx.load(tmp_path / "onnx" / "model.onnx").opset_import[0].version >= 18


def test_no_file_holds_pictures_or_paths(tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    """What is handed on says nothing of whose images it was made with, nor where; and whoever may read the folder may read each file."""
    formats = "timm,state_dict,pt2" + (",onnx" if importlib.util.find_spec("onnxscript") else "")
    root = class_folders(tmp_path / "somebodys images", train={"cat": 8, "dog": 8}, test={"cat": 3, "dog": 3})
    weights, run, out = tmp_path / "somebodys.safetensors", tmp_path / "run", tmp_path / "out"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    data = ("data=imagefolder", f"data.root={root}", "data.image_size=32", "data.crop_scale=null", "data.num_workers=0")
    call = ("model=timm", "model.name=test_resnet", f"model.weights={weights}", *data, *QUIET, "trainer.max_epochs=1")
    for done in (
        command("train", *call, f"hydra.run.dir={run}"),
        command("export", f"run={run}", f"format=[{formats}]", f"output={out}"),
        command("evaluate", f"run={run}"),
    ):
        assert done.returncode == 0, done.stderr
    predictor, needles = vl.load(run), []
    for path in sorted(root.rglob("*.png")):
        prepared = predictor.prepare(path)
        normal = normalize(prepared[None], predictor.preprocessing)[0]
        needles += [t[c, 8:24].numpy().tobytes() for t in (prepared, normal) for c in range(3)]
        needles += [t.permute(1, 2, 0)[8:24].contiguous().numpy().tobytes() for t in (prepared, normal)]
    handed_on = [*files_below(out), *files_below(run / "adapter", run / "checkpoints"), run / "base.safetensors"]
    where = [os.fsencode(path) for path in (tmp_path, Path(timm.__file__).parents[1])]
    for path in handed_on:
        for content in contents(path):
            assert not [needle for needle in needles if needle in content], path
            assert not [each for each in where if each in content] or path.is_relative_to(run), path  # a run knows its weights' file
    usual = 0o666 & ~umask()
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files_below(out, run)} == dict.fromkeys(
        [path.name for path in files_below(out, run)], oct(usual)
    )


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_search_finds_a_picture(tmp_path: Path) -> None:
    """The search above is able to fail: a program that was exported with an image holds it."""
    picture = torch.rand(2, 3, 8, 8)
    torch.export.save(torch.export.export(torch.nn.Flatten(), (picture,)), tmp_path / "program.pt2")
    assert any(picture.numpy().tobytes() in content for content in contents(tmp_path / "program.pt2"))


def test_the_card_is_the_hubs(exports: Path) -> None:
    for folder in exports.iterdir():
        _, block, text = (folder / "README.md").read_text().split("---\n", 2)
        metadata = yaml.safe_load(block)
        assert metadata["pipeline_tag"] == "image-classification"
        assert metadata["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
        headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
        wanted = ("Results", "How to use", "Preparing an image", "Data and training", "Weights it started from", "Limits")
        assert headings == [*wanted]
        assert set(json.loads((folder / "preprocessing.json").read_text())) >= {"classes", "mean", "std", "image_size", "crop_mode"}


@pytest.mark.parametrize(
    ("overrides", "format_"),
    quickly(
        [
            (("model.stem=small", "lora=dora", "model.in_chans=4"), "state_dict"),
            (("model=torchvision", "model.name=squeezenet1_1", "data.image_size=64"), "torchvision"),
            (("model.name=test_vit", "data.image_size=48", "model.in_chans=1"), "timm"),
            (("model.name=test_efficientnet", "lora=full", "model.freeze_bn=false"), "pt2"),
            (("model.name=test_vit", "data.image_size=160", "model.quantize=int8", "lora.targets=[attn]"), "timm"),
            (("model.name=swinv2_cr_tiny_ns_224", "data.image_size=64"), "timm"),  # nothing of it is resized, and it has a size
            (("model.name=coat_tiny", "data.image_size=64"), "timm"),  # tensors that share their memory
        ],
        1,
        names=2,
    ),
)
def test_other_models(overrides: tuple[str, ...], format_: str, tmp_path: Path) -> None:
    if "model.quantize=int8" in overrides:
        pytest.importorskip("torchao")
    done = command("train", *TINY, *QUIET, "trainer.max_epochs=1", *overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    done = command("export", f"run={tmp_path / 'run'}", f"format={format_}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "export" / format_ / "README.md").is_file()
    again = command("export", f"run={tmp_path / 'run'}", f"format={format_}")
    assert again.returncode == 2
    assert "is there already; overwrite=true replaces it" in again.stderr
    if "model.stem=small" in overrides:
        refused = command("export", f"run={tmp_path / 'run'}", "format=timm")
        assert refused.returncode == 2
        assert "timm cannot build it. Take format=state_dict" in refused.stderr
        assert not (tmp_path / "run" / "export" / "timm").exists()


def test_a_runtime_that_disagrees(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionlora.exporting import export, formats
    from visionlora.runs.folder import RunFolder

    honest = formats.FORMATS["timm"]
    wrong = honest._replace(read=lambda *given: lambda images: honest.read(*given)(images) + 0.1)
    monkeypatch.setitem(formats.FORMATS, "timm", wrong)
    with pytest.raises(vl.UserError, match="format=timm: what was read back differs from the model by"):
        export.export(RunFolder.open(tiny_run), ["state_dict", "timm"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("format=onx",), "format=onx is unknown.*Did you mean 'onnx'"), (("format=torchvision",), "the model is timm/test_resnet")],
)
def test_mistakes(words: tuple[str, ...], message: str, tiny_run: Path, tmp_path: Path) -> None:
    import re

    done = command("export", f"run={tiny_run}", f"output={tmp_path / 'out'}", *words)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr

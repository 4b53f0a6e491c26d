"""The code of every card, and of the page on exports, does what it says: it is copied, run, and names the predictor's class."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import QUIET, TINY, command
from exporting.snippets import agree, answer, blocks, photo, run_block
from timm.data import create_transform, resolve_data_config

import visionlora as vl
from visionlora.data.opening import open_image
from visionlora.data.transforms import normalize

ROOT = Path(__file__).parents[2]
ONNX = importlib.util.find_spec("onnxscript") is not None and importlib.util.find_spec("onnxruntime") is not None
HOSTILE = [
    "<b>bold</b> & `code`",
    "[link](http://x) \"quoted\" 'too'",
    "C:\\new\\table | # *x*",
    "two\nlines\n```python\nraise SystemExit(3)\n```",
]


def trained(folder: Path, *overrides: str) -> Path:
    done = command("train", *TINY, *QUIET, "trainer.max_epochs=1", *overrides, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def assert_cards_work(run: Path, output: Path, formats: tuple[str, ...], mode: str = "RGB") -> None:
    """Each card has the numbers of the preprocessing, and one block of Python, which gives what the predictor gives."""
    formats = tuple(name for name in formats if ONNX or name != "onnx")
    done = command("export", f"run={run}", f"format=[{','.join(formats)}]", f"output={output}")
    assert done.returncode == 0, done.stderr
    for name in formats:
        folder = output / name
        wanted = answer(run, photo(folder / "picture.jpg", mode))
        card, prepared = (folder / "README.md").read_text(), json.loads((folder / "preprocessing.json").read_text())
        assert f"| crop_pct | {prepared['crop_pct']:g}: " in card
        assert f"| interpolation | {prepared['interpolation']} |" in card
        for key in ("mean", "std"):
            assert f"| {key} | {', '.join(map(str, prepared[key]))} |" in card
        assert f"| input size | {' × '.join(map(str, prepared['input_size']))}:" in card
        (code,) = blocks(folder / "README.md")
        printed = run_block(code, folder)
        assert agree(printed, wanted), (name, printed, wanted)


@pytest.mark.parametrize(
    ("overrides", "formats", "mode"),
    [
        (("data.crop_scale=[0.5,1]",), ("timm", "onnx"), "RGB"),
        pytest.param(("data.crop_scale=[0.5,1]",), ("state_dict", "pt2"), "RGB", marks=pytest.mark.slow),
        pytest.param(("model.in_chans=1",), ("timm", "state_dict", "onnx", "pt2"), "L", marks=pytest.mark.slow),  # the whole, squashed
        pytest.param(
            ("model.name=test_vit", "data.image_size=48", "data.crop_scale=[0.5,1]"), ("timm", "state_dict"), "RGB", marks=pytest.mark.slow
        ),
        pytest.param(("model.stem=small",), ("state_dict", "pt2"), "RGB", marks=pytest.mark.slow),
        pytest.param(
            ("model=torchvision", "model.name=mobilenet_v3_small", "data.crop_scale=[0.5,1]"),
            ("torchvision", "state_dict", "onnx"),
            "RGB",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_code_of_a_runs_card(overrides: tuple[str, ...], formats: tuple[str, ...], mode: str, tmp_path: Path) -> None:
    assert_cards_work(trained(tmp_path / "run", *overrides), tmp_path / "out", formats, mode)


@pytest.mark.slow
def test_names_that_are_markup(tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    """Names of classes stay names: in the card, in its code and in what the code prints."""
    names = [name.replace("/", "∕") for name in HOSTILE]
    root = class_folders(train=dict.fromkeys(names, 12), test=dict.fromkeys(names, 2))
    run = trained(tmp_path / "run", "data=imagefolder", f"data.root={root}", "data.image_size=32")
    assert_cards_work(run, tmp_path / "out", ("timm", "state_dict", "onnx", "pt2"))
    card = (tmp_path / "out" / "timm" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n", 2)[1])["library_name"] == "timm"
    assert not any(markup in card.split("```python")[0] for markup in ("<b>", "[link](", "`code`", "\nlines"))


def test_timm_prepares_the_same_view(tmp_path: Path) -> None:
    """timm's own transforms, made from the config in the export, show the model what the predictor shows it."""
    run = trained(tmp_path / "run", "data.crop_scale=null")
    assert command("export", f"run={run}", f"output={tmp_path}").returncode == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    picture = photo(tmp_path / "picture.jpg", size=(60, 50))
    predictor = vl.load(run)
    wanted = normalize(predictor.prepare(picture)[None], predictor.preprocessing)[0]
    assert torch.allclose(transform(open_image(picture, 3)), wanted, atol=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="needs the extra onnx")
def test_the_code_of_the_documentation(tiny_run: Path, tmp_path: Path) -> None:
    """In the order of the page, in one folder, with the run where the page has it."""
    shutil.copytree(tiny_run, tmp_path / "outputs" / "RUN")
    assert command("compress", "run=outputs/RUN", "calibration=16", "prune=[]", cwd=tmp_path).returncode == 0
    picture = photo(tmp_path / "picture.jpg")
    codes = blocks(ROOT / "docs" / "after.md")
    assert len(codes) == 2
    exported, named = (run_block(code, tmp_path) for code in codes)
    assert [line.split()[0] for line in exported.splitlines()] == ["handed_on/onnx", "handed_on/pt2"]
    assert named.strip() == int8_answer(tmp_path / "outputs" / "RUN", picture)


def int8_answer(run: Path, picture: Path) -> str:
    """The class that the compressed model gives to what the predictor makes of an image."""
    import onnxruntime

    predictor = vl.load(run)
    images = normalize(predictor.prepare(picture)[None], predictor.preprocessing)
    session = onnxruntime.InferenceSession(run / "compress" / "int8.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    return predictor.classes[int(logits[0].argmax())]

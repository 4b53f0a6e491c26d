"""The size of the view goes by the objects where it is left open: told, kept, and not asked for where the usual one does."""

from __future__ import annotations

import json
from pathlib import Path

import placed
import pytest
from conftest import QUIET, command, compose
from omegaconf import OmegaConf
from PIL import Image

import visionlora as vl
from visionlora.backbone.info import info_of
from visionlora.backbone.placed import detectors
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.training import view_size
from visionlora.training.run import run
from visionlora.training.view_size import MOST, decide_size

MODEL = ("task=detect", "model=timm", "model.pretrained=false", "model.decoder=fcos", "data.num_workers=0", "trainer.precision=32-true")
FLEXIBLE = "model.name=test_resnet"


@pytest.mark.parametrize(
    ("side", "words", "size"),
    [
        (5, (), MOST),
        (12, (), 480),  # of 120 pixels: half the objects have at least 48 of 480
        (30, (), None),
        (16, (), 384),
        (16, ("model.name=vit_base_patch16_384",), None),
        (16, ("model.name=efficientnet_b5",), None),  # whose own size is 456
        (5, ("recipe=plain",), None),
        (5, ("model.name=test_vit",), None),  # which takes one size
        (5, ("model=torchvision", "model.name=ssd300_vgg16", "model.decoder=null"), None),
        (5, ("model=torchvision", "model.name=fcos_resnet50_fpn", "model.decoder=null"), MOST),
    ],
)
def test_small_objects_are_looked_at_from_nearer(side: int, words: tuple[str, ...], size: int | None, tmp_path: Path) -> None:
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    for number in range(6):
        Image.new("RGB", (120, 80)).save(tmp_path / f"JPEGImages/{number}.png")
        objects = [(0, (2, 3, 2 + side, 3 + side)), (1, (60, 30, 60 + side, 30 + side))]
        (tmp_path / f"Annotations/{number}.xml").write_text(placed.voc_xml(objects, 120, 80))
    config = compose("data=voc", f"data.root={tmp_path}", *MODEL, FLEXIBLE, *words)
    data = ImageData(DataConfig("voc", str(tmp_path)), task="detect")
    changed, choices = decide_size(config, data)
    assert changed.data.image_size == size
    assert [choice.value for choice in choices] == ([] if size is None else [size])
    config = compose("data=voc", f"data.root={tmp_path}", *MODEL, FLEXIBLE, *words, "data.image_size=64")
    changed, choices = decide_size(config, data)  # what is given wins
    assert changed.data.image_size == 64
    assert [choice.instead for choice in choices] == ([] if size is None else [size])


def test_a_run_is_made_and_gone_on_with_at_that_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "SIZE", 32)
    monkeypatch.setattr(view_size, "MOST", 192)
    root = placed.write_voc(tmp_path / "data", {"train": 8, "val": 4, "test": 4})
    words = ("data=voc", f"data.root={root}", *MODEL, FLEXIBLE, *QUIET, "data.batch_size=4", "trainer.max_epochs=1")
    run(compose(*words, "logger={}"), tmp_path / "run")
    assert OmegaConf.load(tmp_path / "run/config.yaml").data.image_size == 192
    choices = {choice["key"]: choice for choice in json.loads((tmp_path / "run/recipe.json").read_text())["choices"]}
    assert choices["data.image_size"]["value"] == 192
    assert choices["data.image_size"]["why"].startswith("half of the objects are smaller than")
    info = info_of(vl.load(tmp_path / "run").model)
    assert info is not None
    assert info.preprocessing.image_size == 192
    gone_on = command("train", *words, "data.image_size=192", "ckpt_path=last", f"hydra.run.dir={tmp_path / 'run'}")
    assert gone_on.returncode == 0, gone_on.stderr

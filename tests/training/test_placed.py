"""``task=segment`` and ``task=detect``, as they are typed: trained, gone on with, evaluated, predicted with, exported, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import onnxruntime
import pandas
import placed
import pytest
import torch
from conftest import QUIET, command, compose
from lightning.pytorch.callbacks import Callback
from PIL import Image
from quickly import quickly
from safetensors.torch import load_file

import visionlora as vl
from visionlora.data.transforms import normalize
from visionlora.tasks.detect.layout import detections
from visionlora.training.run import run

PARTS = {"train": 12, "val": 4, "test": 6}
SMALL = (
    "model=timm",
    "model.name=test_resnet",
    "model.pretrained=false",
    "data.num_workers=0",
    "data.image_size=64",
    "data.batch_size=4",
    "recipe=plain",
)
KINDS: dict[str, dict[str, Any]] = {
    "detect": {"data": "voc", "write": placed.write_voc, "keys": ("map", "map50"), "plots": ("precision_recall",)},
    "segment": {
        "data": "masks",
        "write": placed.write_masks,
        "keys": ("miou", "pixel_accuracy", "dice"),
        "plots": ("classes", "worst", "best"),
    },
}
KINDS["masks of objects"] = {
    "task": "detect",
    "data": "coco",
    "write": placed.write_coco,
    "keys": ("map", "map50", "mask_map", "mask_map50"),
    "plots": ("precision_recall",),
    "more": ("model.decoder=mask_rcnn",),
}
KINDS["two stages"] = KINDS["detect"] | {"task": "detect", "more": ("model.decoder=faster_rcnn",)}
ONE_OF_EACH = ("segment", "detect")
"""Of the tasks."""


def words(task: str, root: Path, run: Path, *more: str) -> list[str]:
    kind = KINDS[task]
    more = (*kind.get("more", ()), *more)
    given = {word.partition("=")[0] for word in more}
    small = [word for word in SMALL if word.partition("=")[0] not in given]
    data = [] if "data" in given else [f"data={kind['data']}"]
    return [f"task={kind.get('task', task)}", *data, f"data.root={root}", f"hydra.run.dir={run}", *small, *QUIET, *more]


@pytest.fixture(scope="module", params=quickly(KINDS, 2))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name of the kind of work, its data and a run of it."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    root = KINDS[request.param]["write"](folder / "data", PARTS)
    done = command("train", *words(request.param, root, folder / "run", "trainer.max_epochs=2"))
    assert done.returncode == 0, done.stderr
    return request.param, root, folder / "run"


def test_a_run_and_what_is_made_of_it(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    task, root, folder = trained
    results = json.loads((folder / "results.json").read_text())
    assert {f"test/{key}" for key in KINDS[task]["keys"]} <= set(results)
    assert (results["task"], results["images/test"]) == (KINDS[task].get("task", task), PARTS["test"])
    evaluated = command("evaluate", f"run={folder}")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((folder / "evaluation_test.json").read_text())
    for key in KINDS[task]["keys"]:
        assert again[f"test/{key}"] == pytest.approx(results[f"test/{key}"], abs=5e-3)
    for plot in KINDS[task]["plots"]:
        with Image.open(folder / f"evaluation_test/{plot}.png") as image:
            assert min(image.size) > 100
    rows = pandas.read_csv(folder / "evaluation_test/predictions.csv")
    assert len(rows) == PARTS["test"]
    images = [path for path in sorted(root.rglob("test*.png")) if "masks" not in path.parts]
    output = tmp_path / "found.csv"
    predicted = command("predict", f"run={folder}", f"input=[{','.join(map(str, images))}]", f"output={output}")
    assert predicted.returncode == 0, predicted.stderr
    assert len(pandas.read_csv(output)) == len(images)
    assert {path.stem for path in (tmp_path / "found/overlays").iterdir()} == {path.stem for path in images}
    if task == "segment":
        for path in images:
            with Image.open(path) as image, Image.open(tmp_path / "found/masks" / f"{path.stem}.png") as mask:
                assert mask.size == image.size
    if task == "masks of objects":
        for one in json.loads((tmp_path / "found/coco.json").read_text())["annotations"]:
            assert one["segmentation"]["size"][0] in (32, 40, 48)
    again_ = command("predict", f"run={folder}", f"input={images[0]}", f"output={output}")
    assert again_.returncode == 2
    assert "is there already" in again_.stderr
    every = command("predict", f"run={folder}", f"input={images[0]}", f"output={tmp_path / 'every.csv'}", "threshold=0.01")
    if task == "segment":
        assert (every.returncode, "task=segment has none" in every.stderr) == (2, True)
    else:
        assert every.returncode == 0, every.stderr
        more, told = (int(pandas.read_csv(file)["objects"][0]) for file in (tmp_path / "every.csv", output))
        assert more > told if task == "detect" else more >= told  # the others have hardly learnt


@pytest.mark.slow
@pytest.mark.parametrize("trained", KINDS, indirect=True)
def test_what_is_told_of_a_run(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """What has no sense here is refused in a sentence; runs are compared without a probe; a state dict can be built again."""
    task, _, folder = trained
    for words_, message in (
        (("evaluate", "tta=flip"), "tta averages the answers for several views"),
        (("evaluate", "temperature=true"), "is for classifiers"),
        (("explain",), "evaluate draws what is seen where"),
        (("export", "format=timm", f"output={tmp_path / 'timm'}"), "Take format=state_dict, onnx or pt2"),
    ):
        refused = command(words_[0], f"run={folder}", *words_[1:])
        assert refused.returncode == 2, words_
        assert message in refused.stderr
    compared = command("evaluate", f"run=[{folder},{folder}]", "compare=true")
    assert compared.returncode == 0, compared.stderr
    rows = json.loads((folder / "comparison_test.json").read_text())
    assert len(rows) == 2
    assert f"test/{KINDS[task]['keys'][0]}" in rows[1]
    for format_ in ("state_dict", "pt2"):
        done = command("export", f"run={folder}", f"format={format_}", f"output={tmp_path / format_}")
        assert done.returncode == 0, done.stderr
    code = (tmp_path / "state_dict/state_dict/README.md").read_text().partition("```python")[2].partition("```")[0]
    assert "decoder=" in code


@pytest.mark.faults
@pytest.mark.parametrize("trained", KINDS, indirect=True)
def test_an_interrupted_run_goes_on_to_the_same_weights(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 1:
                raise Stop

    task, root, _ = trained
    keys = [word for word in words(task, root, tmp_path, "trainer.max_epochs=2") if not word.startswith("hydra.")]
    run(compose(*keys), tmp_path / "whole")
    with pytest.raises(Stop):
        run(compose(*keys), tmp_path / "cut", [Interrupt()])
    done = command("train", *keys, "ckpt_path=last", f"hydra.run.dir={tmp_path / 'cut'}")
    assert done.returncode == 0, done.stderr
    whole, cut = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_python_and_onnx_say_the_same(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """The code of the card runs; of a detector it prints the boxes of the graph, which are the predictor's."""
    task, root, folder = trained
    exported = command("export", f"run={folder}", "format=onnx", f"output={tmp_path / 'x'}")
    assert exported.returncode == 0, exported.stderr
    assert f"Compared on {PARTS['test']} images of the run's data" in exported.stdout
    predictor = vl.load(folder)
    image = next(path for path in sorted(root.rglob("test*.png")) if "masks" not in path.parts)
    (one,) = predictor.predict(image)
    assert not one.error
    card = json.loads((tmp_path / "x/onnx/preprocessing.json").read_text())
    assert card["crop_mode"] == "letterbox"
    code = (tmp_path / "x/onnx/README.md").read_text().partition("```python")[2].partition("```")[0].replace("picture.jpg", str(image))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "x/onnx", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if task != "segment":
        assert_boxes(done.stdout, predictor, image)
        assert len(done.stdout.splitlines()) > 3


def assert_boxes(printed: str, predictor: vl.Predictor, image: Path) -> None:
    """See that a card's code has printed the ten likeliest boxes of an image."""
    with torch.inference_mode():
        outputs = predictor.model(normalize(predictor.prepare(image)[None], predictor.preprocessing))
    likeliest = detections(outputs, len(predictor.classes))[0, :10]
    likeliest = likeliest[likeliest[:, 0] >= 0]
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert [float(score) for _, score in lines] == pytest.approx(likeliest[:, 1].tolist(), abs=2e-3)
    assert {name for name, _ in lines} <= set(predictor.classes)


@pytest.mark.slow
@pytest.mark.parametrize("trained", list(KINDS), indirect=True)
def test_a_run_made_smaller(trained: tuple[str, Path, Path]) -> None:
    """In eight bits it is nearly as good, and still finds its boxes by itself."""
    task, _, folder = trained
    done = command("compress", f"run={folder}", "prune=[0.1]", "calibration=8")
    assert done.returncode == 0, done.stderr
    float_, int8, pruned = json.loads((folder / "compress/results.json").read_text())
    key = KINDS[task]["keys"][0]
    assert float_[key] == pytest.approx(json.loads((folder / "results.json").read_text())[f"test/{key}"], abs=0.02)
    assert int8[key] == pytest.approx(float_[key], abs=0.05)
    assert pruned[key] == pytest.approx(float_[key], abs=0.1)
    session = onnxruntime.InferenceSession(folder / "compress/int8.onnx")
    assert [output.name for output in session.get_outputs()] == (["logits"] if task == "segment" else ["logits", "found"])


@pytest.mark.parametrize(
    ("lora", "task"),
    quickly(
        [("full", "detect"), ("none", "segment"), ("none", "detect"), ("full", "segment"), ("dora", "segment"), ("dora", "detect")],
        2,
        names=2,
    ),
)
def test_other_methods(lora: str, task: str, tmp_path: Path) -> None:
    root = KINDS[task]["write"](tmp_path / "data", PARTS)
    done = command("train", *words(task, root, tmp_path / "run", "trainer.max_epochs=1", f"lora={lora}"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert 0 <= results[f"test/{KINDS[task]['keys'][0]}"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("model.decoder=ssdlite", "data.batch_size=1", "data.image_size=32"),
        ("data=coco", "model.decoder=mask_rcnn", "trainer.precision=bf16-mixed", "data.batch_size=2"),
        ("model.decoder=faster_rcnn", "trainer.precision=bf16-mixed", "lora=full"),
        ("model.decoder=ssd", "trainer.precision=bf16-mixed"),
        ("model.decoder=faster_rcnn", "data.batch_size=1", "lora=none"),
        ("model=torchvision", "model.name=ssdlite320_mobilenet_v3_large", "lora.targets=stage2+"),
        ("model=torchvision", "model.name=fasterrcnn_mobilenet_v3_large_320_fpn", "lora.targets=stage10+"),
        ("data=coco", "model=torchvision", "model.name=maskrcnn_resnet50_fpn", "lora.targets=stage4+", "data.batch_size=2"),
    ],
    ids=lambda more: " ".join(word.partition("=")[2] for word in more),
)
def test_other_detectors(more: tuple[str, ...], tmp_path: Path) -> None:
    """Trained, evaluated and exported, and the code of its card makes boxes."""
    root = (placed.write_coco if "data=coco" in more else placed.write_voc)(tmp_path / "data", PARTS)
    run_ = tmp_path / "run"
    done = command("train", *words("detect", root, run_, "trainer.max_epochs=1", *more))
    assert done.returncode == 0, done.stderr
    evaluated = command("evaluate", f"run={run_}")
    assert evaluated.returncode == 0, evaluated.stderr
    exported = command("export", f"run={run_}", "format=onnx", f"output={tmp_path / 'x'}")
    assert exported.returncode == 0, exported.stderr
    image = next(root.rglob("test*.png"))
    code = (tmp_path / "x/onnx/README.md").read_text().partition("```python")[2].partition("```")[0].replace("picture.jpg", str(image))
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "x/onnx", capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert_boxes(told.stdout, vl.load(run_), image)


@pytest.mark.slow
@pytest.mark.parametrize("task", ONE_OF_EACH)
def test_ranks_by_importance(task: str, tmp_path: Path) -> None:
    root = KINDS[task]["write"](tmp_path / "data", PARTS)
    budget = ("lora.budget=20000", "lora.allocate=importance", "trainer.max_epochs=1")
    done = command("train", *words(task, root, tmp_path / "run", *budget))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_masks_of_coco(tmp_path: Path) -> None:
    """Trained and evaluated: polygons are masks of classes."""
    root = placed.write_coco(tmp_path / "data", PARTS)
    words_ = [word.replace("data=masks", "data=coco") for word in words("segment", root, tmp_path / "run", "trainer.max_epochs=1")]
    for done in (command("train", *words_), command("evaluate", f"run={tmp_path / 'run'}")):
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert 0 <= results["test/miou"] <= 1


@pytest.mark.parametrize(
    ("task", "more", "message"),
    quickly(
        [
            ("segment", ["model.decoder=fcos"], "task=segment cannot use model.decoder=fcos, which makes no masks"),
            (
                "detect",
                ["model=torchvision", "model.name=resnet18", "model.pretrained=false"],
                "it takes model.decoder=fcos, retinanet, ssd, ssdlite, faster_rcnn, mask_rcnn",
            ),
            ("detect", ["model.decoder=mask_rcnn"], "Mask R-CNN needs the mask of every object, and 12 of 12 training images have objects"),
            ("segment", ["data.randaugment=2"], "data.randaugment=2 does not move masks and boxes"),
            ("segment", ["data.image_size=50"], "data.image_size=50"),
            ("segment", ["task.loss=dise"], "dice"),
            ("detect", ["model.decoder=unet"], "task=detect cannot use model.decoder=unet, which finds no boxes"),
            ("segment", ["model.decoder=unett"], "unet"),
            ("detect", ["data.mixup=0.2"], "data.mixup"),
            ("detect", ["data.image_size=60", "model.decoder=null"], ""),
            ("segment", ["data.scale_jitter=[2,1]"], "data.scale_jitter=\\[2.0, 1.0\\] must be"),
            ("detect", ["model.name=vit_tiny_patch16_224"], ""),
        ],
        6,
        names=3,
    ),
)
def test_what_cannot_be(task: str, more: list[str], message: str, tmp_path: Path) -> None:
    root = KINDS[task]["write"](tmp_path / "data", PARTS)
    done = command("train", *words(task, root, tmp_path / "run", "trainer.max_epochs=1", *more))
    if message:
        assert done.returncode == 2, done.stderr
        assert message.replace("\\", "") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("model=timm", "model.name=test_resnet", "model.decoder=unet"), "model.decoder=unet is for task=segment or task=detect"),
        (("model=torchvision", "model.name=lraspp_mobilenet_v3_large"), "model.name=lraspp_mobilenet_v3_large is for task=segment"),
    ],
)
def test_what_a_classifier_cannot_be(more: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command("train", "data=fake", "model.pretrained=false", *more, f"hydra.run.dir={tmp_path / 'run'}", *QUIET)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("task", ONE_OF_EACH)
def test_the_offline_default(task: str, tmp_path: Path) -> None:
    keys = (
        f"task={task}",
        "data=digits",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
    )
    done = command("train", *keys, "data.num_workers=0", f"hydra.run.dir={tmp_path / 'run'}", *QUIET)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["model"] == "timm/tf_efficientnet_lite0"

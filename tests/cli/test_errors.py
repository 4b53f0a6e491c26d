"""A user's mistakes, as a user meets them: one clear sentence, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, command
from PIL import Image
from quickly import quickly

import visionlora as vl

Folders = Callable[..., Path]

AT_ONCE: list[tuple[str, tuple[str, ...], str]] = [
    ("train", ("lora.rr=4",), "unknown key lora.rr. Did you mean 'lora.r'"),
    ("train", ("lr=0.01",), "unknown key lr: write optim.lr=0.01"),
    ("train", ("--epochs", "5"), "write trainer.max_epochs=5"),
    ("train", ("trainer.max_epochs=ten",), "trainer.max_epochs=ten must be a whole number"),
    (
        "train",
        ("data.crop_scale=0.5",),
        "must be \\[smallest, largest\\] share of the image, as in \\[0.5,1.0\\], null",
    ),
    ("train", ("-m", "lora.r=1,2", "hydra/launcher=dask"), "hydra/launcher=dask is not there; .*pip install"),
    ("train", ("data=imagefolder", "data.root=nowhere"), "data.root=nowhere is not there"),
    ("train", ("task=ordnal",), "Did you mean 'ordinal'"),
    ("train", ("ckpt_path=no.ckpt",), "ckpt_path=no.ckpt: there is no such file"),
    ("train", ("modle=resnet18",), "Did you mean 'model'"),
    ("train", ("model=resnet8",), "model=resnet8 is not a config of model; .*For any other model: model=timm model.name=resnet8"),
    ("train", ("model=timm",), "model.name is not set"),
    ("train", ("lora.r=0",), "lora.r=0 is not a rank"),
    ("train", ("lora.adaptive.warmup=0.7",), "warmup and final together are more than the whole training"),
    ("train", ("lora.budget=lots",), "lora.budget=lots is neither a number of parameters nor a share"),
    ("train", ("optim.name=adamm",), "optim.name=adamm is unknown.*Did you mean 'adam"),
    ("train", ("data.val_fraction=1.5",), "data.val_fraction=1.5 must be between 0 and 1"),
    ("train", ("lora.targets={a b",), "cannot read 'lora.targets={a b'"),
    ("evaluate", ("run=nowhere",), "run=nowhere: there is no such folder"),
    ("train", ("sweep=ranks",), "sweep=ranks is not a sweep; there are .*Did you mean 'rank'"),
    ("train", ("logger=[csv,wandbb]",), "logger=wandbb is not a config of logger.*Did you mean 'wandb'"),
    ("report", ("runs=nowhere",), "runs=nowhere: there is no such folder"),
    ("search", ("search.space={lora.r: 4}",), "lora.r=4 must be a list of choices"),
    ("predict", ("run=.", "input=x", "topk=0"), "topk=0 must be at least 1"),
    ("train", ("+lora.alfa=4",), "unknown key lora.alfa. Did you mean 'lora.alpha'"),
    ("train", ("+trainer.max_epohcs=3",), "unknown key trainer.max_epohcs.* Did you mean 'trainer.max_epochs'"),
    ("train", ("lora.budget=150%",), "must be at most 100%"),
    ("train", ("lora.budget=0.01",), "a share of the model's is written with a %"),
    ("train", ("lora.targets=None",), "lora.targets: 'None' is no name of a layer"),
    ("train", ("data.classes=nowhere.txt",), "data.classes=nowhere.txt: there is no such file"),
    ("train", ("data=imagefolder", "data.root=x", "data.levels=0"), "data.levels=0 must be at least 1"),
    ("train", ("model.head_init=pretraned",), "model.head_init=pretraned is unknown.*Did you mean 'pretrained'"),
    ("train", ("model=timm", "model.name=x", "model.weights=no.pt"), "model.weights=no.pt: there is no such file"),
    ("train", ("trainer.max_epoch=4",), "unknown key trainer.max_epoch. Did you mean 'trainer.max_epochs'"),
    ("train", ("lora=dora2",), "lora=dora2 is not a config of lora"),
    ("train", ("data=imagefolder",), "data.root is not set"),
    ("train", ("lora.r=four",), "lora.r=four must be a whole number"),
    ("train", ("lora.targets={qkv: 0}",), "qkv.*=0 is not a rank"),
    ("train", ("lora.init=pisa",), "lora.init=pisa is unknown.*Did you mean 'pissa'"),
    ("train", ("lora.adaptive.warmupp=0.1",), "unknown key lora.adaptive.warmupp. Did you mean 'lora.adaptive.warmup'"),
    ("train", ("lora=adaptive", "lora.budget=1%"), "has a budget of its own"),
    ("train", ("lora.allocate=importance",), "needs a budget to share out"),
    ("train", ("lora.reference=DIR",), "is read by lora.allocate=shift alone"),
    ("train", ("lora.lr_ratio=0",), "lora.lr_ratio=0.0 must be above 0"),
    ("train", ("optim.lr=0",), "optim.lr=0.0 must be above 0"),
    ("train", ("data.crop_scale=[0.5]",), "data.crop_scale"),
    ("train", ("data.name=digit",), "Did you mean 'digits'"),
    ("train", ("lora.r=",), "lora.r"),
    ("train", ("trainer.max_epochs=-1",), "max_epochs=-1 has no end"),
    ("train", ("seed=9999999999",), "seed=9999999999 must be below"),
    ("evaluate", (), "run is not set"),
    ("evaluate", ("run=.", "split=tests"), "split=tests is unknown.*Did you mean 'test'"),
    ("evaluate", ("run=.",), "is not a run folder: it has no config.yaml"),
    ("train", ("trainer.batch_size=7",), "a number is given as data.batch_size"),
    ("report", ("rusn=x",), "unknown key rusn. Did you mean 'runs'"),
    ("search", ("search.metric=test/top1",), "settings are chosen by validation"),
    ("predict", ("run=.", "input=x"), "is not a run folder"),
]

PROBE = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    heavy = sorted({"torch", "torchvision", "timm", "lightning", "torchmetrics"} & set(sys.modules))
    print("HEAVY", heavy, file=sys.stderr)
"""


def probe(module: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and report which heavy packages it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROBE, f"visionlora.{module}", *overrides], capture_output=True, text=True, cwd=cwd, timeout=60
    )


def sentence(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.mark.parametrize(("module", "overrides", "message"), quickly(AT_ONCE, 24, names=3))
def test_told_before_torch_is_imported(module: str, overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = probe(module, *overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(message, sentence(done.stderr)), done.stderr
    assert "HEAVY []" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "module", ["train", "plan", "check", "pack", "search", "report", "evaluate", "predict", "explain", "export", "compress", "__main__"]
)
def test_help_is_light(module: str, tmp_path: Path) -> None:
    done = probe(module, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "HEAVY []" in done.stderr
    if module == "train":
        assert all(word in done.stdout for word in ("data=imagefolder data.root=DIR", "resnet18", "lora.r=8", "recipe=fast"))


def tiny(*overrides: str, cwd: Path) -> str:
    """The sentence that a run of the tiny model ends with."""
    done = command("train", *TINY, *QUIET, "trainer.max_epochs=1", *overrides, cwd=cwd)
    assert done.returncode == 2, done.stderr
    return sentence(done.stderr)


OVERRIDES: list[tuple[tuple[str, ...], str]] = [
    (("model.name=resnet81",), "timm has no such model. Did you mean 'resnet"),
    (("lora.targets=[layer1,blok]",), "pattern 'blok' matches no"),
    (("lora.targets={conv1.0: 999}",), "conv1.0 cannot have rank 999"),
    (("lora.budget=10",), "10 parameters do not pay for a single rank"),
    (("model.weights=nothing.pth", "model.pretrained=true"), "nothing.pth: there is no such file"),
    (("callbacks=early_stopping", "data.val_fraction=0"), "no validation part"),
    (("trainer.accelerator=quantum",), "trainer.accelerator=quantum is unknown"),
    (("model=torchvision", "model.name=inception_v3"), "data.image_size=32: torchvision/inception_v3 cannot take images of this size"),
    (("data.num_classes=1",), "one class only"),
    (("model=torchvision", "model.name=resnet81"), "torchvision has no such classifier"),
    (("lora.targets=stage9",), "the model has no stage 9; it has stages 1 to 4"),
    (("lora.targets=attn",), "no layer of the model has the role 'attn'"),
    (("lora.targets='re:layer('",), "'re:layer\\(' is not a regular expression"),
    (("lora.budget=1%", "lora.allocate=shift", "lora.reference=nowhere"), "lora.reference=nowhere: there is no such file or folder"),
    (("trainer.strategy=dpp",), "Did you mean 'ddp'"),
    (("trainer.strategy=ddp_spawn", "trainer.devices=2"), "take trainer.strategy=ddp, which starts them once"),
    (("trainer.accelerator=cpu", "trainer.devices=999"), "trainer.devices=999 is more processes than this machine has cores"),
    (("model.in_chans=4", "data.randaugment=2"), "not of model.in_chans=4"),
    (("model.in_chans=5",), "images are read with 1, 3 or 4 channels"),
]


@pytest.mark.parametrize(("overrides", "message"), quickly(OVERRIDES, 9, names=2))
def test_told_once_the_model_or_the_data_is_known(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert re.search(message, tiny(*overrides, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


NO_NETWORK = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": "cache", "TORCH_HOME": "cache", "https_proxy": "http://127.0.0.1:9"}
UNREACHABLE: list[tuple[tuple[str, ...], str]] = [
    (("model=resnet18",), "timm's resnet18 are not in the local cache and cannot be downloaded"),
    (("model=torchvision_resnet18",), "torchvision's resnet18 are not in the local cache and cannot be downloaded"),
    (("data=cifar10", "data.root=nothing"), "nothing holds neither class folders .* nor torchvision's files.*Offline"),
]


@pytest.mark.parametrize(("overrides", "message"), quickly(UNREACHABLE, 1, names=2))
def test_no_network_says_what_to_do_offline(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command("train", "data=fake", *QUIET, *overrides, cwd=tmp_path, env=NO_NETWORK, timeout=60)
    assert done.returncode == 2
    assert re.search(message, sentence(done.stderr))
    assert "ffline" in done.stderr


def test_unreadable_picture_is_named(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"cat": 12, "dog": 12})
    for workers in (0, 1):
        (root / "train" / "cat" / "3.png").write_bytes(b"no image")
        said = tiny("data=imagefolder", f"data.root={root}", "data.image_size=32", f"data.num_workers={workers}", cwd=tmp_path)
        assert "1 of 24 images cannot be read" in said
        assert "train/cat/3.png (no image format was recognised)" in said


def test_class_folders_are_checked(class_folders: Folders, tmp_path: Path) -> None:
    root = class_folders(train={"cat": 5, "dog": 5}, test={"cat": 5, "cow": 5})
    assert "differ: cow, dog" in tiny("data=imagefolder", f"data.root={root}", cwd=tmp_path)


def test_damaged_checkpoint_and_config(tiny_run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((tiny_run / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    assert "damaged.ckpt is damaged" in tiny(f"ckpt_path={damaged}", cwd=tmp_path)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}, "global_step": 1, "pytorch-lightning_version": "2.6.6", "epoch": 0, "loops": {}}, foreign)
    assert "was not written by visionlora" in tiny(f"ckpt_path={foreign}", cwd=tmp_path)
    last = tiny_run / "checkpoints" / "last.ckpt"
    assert "another" in tiny(f"ckpt_path={last}", "data.num_classes=5", cwd=tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("a: [")
    (run / "adapter").mkdir()
    done = command("evaluate", f"run={run}")
    assert done.returncode == 2
    assert "config.yaml is damaged" in sentence(done.stderr)


def test_evaluate_checks_classes_and_split(tiny_run: Path) -> None:
    assert "validation top-1 accuracy" in command("evaluate", f"run={tiny_run}", "split=val", "batch_size=4").stdout
    config = tiny_run / "config.yaml"
    before = config.read_text()
    try:
        config.write_text(before.replace("num_classes: 4", "num_classes: 3").partition("\n")[2])  # without its seal
        done = command("evaluate", f"run={tiny_run}")
        assert done.returncode == 2
        assert "class3 is in one of them only" in sentence(done.stderr)
    finally:
        config.write_text(before)


def test_predict_writes_a_row_for_every_picture(tiny_run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    for name, size in (("a.png", (9, 30)), ("b.jpg", (64, 64))):
        Image.new("RGB", size, (90, 160, 60)).save(pictures / name)
    (pictures / "broken.jpg").write_bytes(b"no image")
    (pictures / "notes.txt").write_text("not looked at")
    done = command("predict", f"run={tiny_run}", f"input={tmp_path / 'pictures'}", "topk=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,error,class1,probability1,class2,probability2"
    assert [Path(line.split(",")[0]).name for line in lines[1:]] == ["a.png", "b.jpg", "broken.jpg"]
    assert "cannot read the image" in lines[3]
    rows = vl.load(tiny_run).predict([pictures / "a.png", Image.open(pictures / "b.jpg")], topk=9)
    assert len(rows[0].labels) == 4
    assert sum(rows[0].probabilities) == pytest.approx(1, abs=1e-5)
    assert lines[1].split(",")[2] == rows[0].labels[0]
    for wrong in ("nowhere", str(tiny_run / "adapter")):
        failed = command("predict", f"run={tiny_run}", f"input={wrong}", "overwrite=true", cwd=tmp_path)
        assert failed.returncode == 2
        assert "input=" in sentence(failed.stderr)


def test_output_is_checked_before_the_work(tiny_run: Path, tmp_path: Path) -> None:
    done = command("predict", f"run={tiny_run}", f"input={tiny_run / 'curves.png'}", f"output={tmp_path}")
    assert done.returncode == 2
    assert "cannot be written" in sentence(done.stderr)
    assert not list(tmp_path.iterdir())


def test_a_mistake_removes_nothing_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "important.log").write_text("mine")
    done = command("train", f"hydra.run.dir={tmp_path}", "lora.r=0")
    assert done.returncode == 2
    assert (tmp_path / "important.log").read_text() == "mine"


def test_adapter_folder_alone_needs_its_base(tiny_run: Path) -> None:
    with pytest.raises(vl.UserError, match="load the whole run folder"):
        vl.load(tiny_run / "adapter")


def test_multirun_goes_on_after_a_mistake(tmp_path: Path) -> None:
    done = command("train", "-m", *TINY, *QUIET, "trainer.max_epochs=1", "lora.targets=blok,auto", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2
    assert "'blok' matches no" in sentence(done.stderr)
    assert len(list(tmp_path.glob("*/results.json"))) == 1

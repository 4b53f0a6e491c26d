"""The main job as a user runs it: commands as processes, files on disk."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, command, results
from PIL import Image
from quickly import quickly

import visionlora as vl

PARAMETERS = ("params/trainable", "params/total", "params/adapter")
FIGURES = (
    *PARAMETERS,
    *("test/top1", "test/f1", "test/loss", "test_before/top1", "test_before/loss", "val/top1"),
    *("seconds/fit", "seconds/total", "images_per_second", "memory/peak_mib", "bytes/adapter"),
)


def digest(folder: Path, name: str = "last") -> str:
    """Of everything a checkpoint has trained."""
    state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    assert state
    return hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_folder(tiny_run: Path) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert names >= {
        *("config.yaml", "results.json", "metrics.csv", "curves.png", "figures/curves.pdf", "split.json", "base.safetensors"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/visionlora.json"),
    }
    assert not [name for name in names if ".part" in name]
    figures = results(tiny_run)
    assert set(FIGURES) <= set(figures)
    assert not {"test/top5"} & set(figures)  # four classes
    assert all(isinstance(value, int | float | str) for value in figures.values())
    assert figures["params/trainable"] < figures["params/total"] / 5
    assert figures["bytes/adapter"] == (tiny_run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert any(row.get("val/top1") for row in rows(tiny_run))
    with Image.open(tiny_run / "curves.png") as picture:
        assert picture.width > 800
    assert json.loads((tiny_run / "adapter" / "visionlora.json").read_text())["backbone"]["classes"] == [f"class{i}" for i in range(4)]


def test_checkpoint_holds_what_training_changed(tiny_run: Path) -> None:
    checkpoint = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert sum(t.numel() for t in checkpoint["state_dict"].values()) == results(tiny_run)["params/trainable"]
    assert checkpoint["visionlora"]["backbone"] == "timm/test_resnet"
    assert (tiny_run / "checkpoints" / "last.ckpt").stat().st_size < 8 * 4 * results(tiny_run)["params/trainable"]


@pytest.mark.parametrize("freeze", [True, False])
def test_batch_norm_buffers(freeze: bool, tmp_path: Path) -> None:
    """Frozen statistics are the base's, to the bit, after two epochs; others have moved and are saved."""
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", f"model.freeze_bn={freeze}", "trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    import safetensors.torch

    base = safetensors.torch.load_file(tmp_path / "base.safetensors")
    model = vl.load(tmp_path).model
    moved = [key for key, value in model.named_buffers() if not torch.equal(value, base[key])]
    assert bool(moved) is not freeze


def test_offline_default_learns_the_digits(tmp_path: Path) -> None:
    done = command("train", f"hydra.run.dir={tmp_path}", timeout=400)
    assert done.returncode == 0, done.stderr
    figures = results(tmp_path)
    assert figures["test/top1"] >= 0.97
    assert figures["test_before/top1"] < figures["test/top1"]
    assert figures["test/top5"] >= figures["test/top1"]
    assert figures["test/top5"] > 0.99
    for shown in ("What is trained", "blocks.5", "% of model", "top-1", "macro F1", "run folder"):
        assert shown in done.stdout
    assert "rror" not in done.stderr
    evaluated = command("evaluate", f"run={tmp_path}", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    measured = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert measured["test/top1"] == pytest.approx(figures["test/top1"], abs=0.01)  # float32 here, perhaps bf16 there


@pytest.mark.parametrize("method", ["none", "full"])
def test_probe_and_full_leave_the_same_files(method: str, tmp_path: Path, tiny_run: Path) -> None:
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", f"lora={method}", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path)) == set(results(tiny_run))
    trainable, total = (results(tmp_path)[key] for key in PARAMETERS[:2])
    assert trainable == total if method == "full" else trainable < total / 10
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert vl.load(tmp_path).logits(x).shape == (2, 4)


@pytest.mark.parametrize(
    "overrides",
    quickly(
        [
            (
                "optim=lion",
                "optim.schedule=constant",
                "optim.head_lr=1e-3",
                "optim.label_smoothing=0.1",
                "trainer.accumulate_grad_batches=2",
            ),
            ("trainer=debug", "lora.dropout=0.2", "lora.use_rslora=true", "lora.targets={layer1: 2, layer3: {r: 3, alpha: 1}}"),
            ("model.in_chans=1",),
            ("model.stem=small", "optim=sgd"),
            ("model=torchvision", "model.name=resnet18", "model.in_chans=4"),
            ("callbacks=early_stopping", "trainer.precision=32-true", "optim.schedule=cosine", "data.num_workers=1"),
            ("data.val_fraction=0", "data.randaugment=2", "data.crop_scale=[0.5,1.0]"),
            ("model.name=test_vit", "model.drop_path_rate=0.2", "data.image_size=48", "lora.train_head=false"),
            ("trainer.limit_val_batches=0", "trainer.limit_train_batches=1"),
            ("trainer.overfit_batches=1", "trainer.precision=bf16-true"),
        ],
        2,
    ),
)
def test_options_run_and_load(overrides: tuple[str, ...], tmp_path: Path) -> None:
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", "trainer.max_epochs=1", *overrides)
    assert done.returncode == 0, done.stderr
    predictor = vl.load(tmp_path)
    prediction = predictor.predict(Image.new("RGB", (40, 30), (200, 30, 30)))[0]
    assert prediction.labels[0] in predictor.classes
    assert results(tmp_path)["checkpoint"] == (
        "last" if {"data.val_fraction=0", "trainer.limit_val_batches=0"} & set(overrides) else "best"
    )


def test_loaded_in_a_new_process_gives_the_same_logits(tiny_run: Path, tmp_path: Path) -> None:
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, visionlora as vl; torch.set_num_threads(1);"
        "torch.save(vl.load(sys.argv[1]).logits(torch.load(sys.argv[2])), sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_run), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")], check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt"), vl.load(tiny_run).logits(x))


def interrupt_when(process: subprocess.Popen[str], path: Path) -> None:
    deadline = time.time() + 120
    while not path.exists() and time.time() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.communicate(timeout=10)
    os.kill(process.pid, signal.SIGINT)


LONG = (*TINY, *QUIET, "data.num_images=400", "lora.dropout=0.1", "model.drop_rate=0.1", "data.crop_scale=[0.5,1.0]", "trainer=cpu")


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param((), id="lora"),
        pytest.param(("lora=adaptive",), id="adalora", marks=pytest.mark.slow),
        pytest.param(("lora.budget=3%", "lora.allocate=importance"), id="budget", marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(lora: tuple[str, ...], tmp_path: Path) -> None:
    """Weights bit for bit, metrics row for row; and Ctrl-C leaves a checkpoint and one sentence."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = (*LONG, *lora, "trainer.max_epochs=4", "trainer.precision=32-true")
    done = command("train", *settings, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "visionlora.train", *settings, f"hydra.run.dir={parts}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    interrupt_when(process, parts / "checkpoints" / "last.ckpt")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert f"ckpt_path=last hydra.run.dir={parts}" in stderr
    assert not (parts / "results.json").exists()
    reached = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    assert reached < 3, "it was not interrupted in time"

    resumed = command("train", "ckpt_path=last", f"hydra.run.dir={parts}", *QUIET)  # the run's own config is taken over
    assert resumed.returncode == 0, resumed.stderr
    for name in ("last", "best") if results(whole)["checkpoint"] == "best" else ("last",):
        assert digest(parts, name) == digest(whole, name)
    for key in ("test/top1", "test/loss", "val/loss", "test_before/top1", "epochs"):
        assert results(parts)[key] == results(whole)[key]
    kept = ("epoch", "step", "train/loss", "val/top1", "val/loss")
    wanted = [{key: row.get(key) for key in kept} for row in rows(whole)]
    assert [{key: row.get(key) for key in kept} for row in rows(parts) if row.get("train/loss")] == [r for r in wanted if r["train/loss"]]
    again = command("train", *settings, "ckpt_path=last", f"hydra.run.dir={parts}")  # the whole command line again is the same run
    assert again.returncode == 0, again.stderr
    refused = command("train", "ckpt_path=last", f"hydra.run.dir={parts}", "trainer.max_epochs=9")
    assert refused.returncode == 2
    assert "was laid out with another trainer.max_epochs (4, not 9)" in refused.stderr


def test_what_an_attempt_without_a_checkpoint_left_is_replaced(tmp_path: Path) -> None:
    tried = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", "trainer.max_epochs=1", "seed=1")
    assert tried.returncode == 0, tried.stderr
    (tmp_path / "results.json").unlink()
    for folder in ("adapter", "checkpoints"):
        shutil.rmtree(tmp_path / folder)
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", "trainer.max_epochs=1", "seed=2")
    assert done.returncode == 0, done.stderr
    assert vl.load(tmp_path).classes  # the base is that of seed 2


@pytest.mark.slow
def test_data_that_has_moved(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders(train={"cat": 20, "dog": 20})
    folder = tmp_path / "run"
    done = command(
        "train", *TINY, *QUIET, "data=imagefolder", "data.root=pictures", "data.image_size=32", f"hydra.run.dir={folder}", cwd=root.parent
    )
    assert done.returncode == 0, done.stderr
    assert command("evaluate", f"run={folder}", cwd=folder).returncode == 0  # from another folder
    root.rename(tmp_path / "elsewhere")
    lost = command("evaluate", f"run={folder}")
    assert lost.returncode == 2
    assert "which is not here" in lost.stderr
    assert command("evaluate", f"run={folder}", f"root={tmp_path / 'elsewhere'}").returncode == 0


def test_never_a_silent_fresh_start(tiny_run: Path, tmp_path: Path) -> None:
    before = (tiny_run / "results.json").read_bytes()
    again = command("train", *TINY, *QUIET, f"hydra.run.dir={tiny_run}")
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    assert (tiny_run / "results.json").read_bytes() == before
    missing = command("train", *TINY, *QUIET, f"hydra.run.dir={tmp_path}", "ckpt_path=last")
    assert missing.returncode == 2
    assert "there is no checkpoint" in missing.stderr


@pytest.mark.slow
def test_two_processes_from_the_console_script_inside_a_multirun(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("visionlora")
    call = [str(script), "train", "-m", *TINY, *QUIET, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1", "lora.r=1,2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*call, f"hydra.sweep.dir={tmp_path}"], capture_output=True, text=True, timeout=400, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    runs = sorted(tmp_path.glob("*/results.json"))
    assert len(runs) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(path.parent.name for path in runs)
    for path in runs:
        assert not set("=,") & set(path.parent.name)
        assert command("evaluate", f"run={path.parent}", "figures=false", cwd=tmp_path).returncode == 0
        measured = json.loads((path.parent / "evaluation_test.json").read_text())
        assert measured["test/loss"] == pytest.approx(results(path.parent)["test/loss"], rel=0.05)  # float32 after bf16


def test_two_processes_train_the_same_as_one(tmp_path: Path) -> None:
    """Half the batch on each of two processes is the same gradient, and the evaluation counts every image once."""
    common = (
        *TINY,
        *QUIET,
        "data.val_fraction=0",
        "data.num_images=64",
        "trainer.max_epochs=1",
        "trainer.precision=32-true",
        "trainer.gradient_clip_val=null",
    )
    one = command("train", *common, "trainer=cpu", "data.batch_size=16", f"hydra.run.dir={tmp_path / 'one'}")
    two = command("train", *common, "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=8", f"hydra.run.dir={tmp_path / 'two'}")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert not two.stderr  # no warning of any library
    assert results(tmp_path / "two")["test_before/loss"] == pytest.approx(results(tmp_path / "one")["test_before/loss"], rel=1e-4)
    assert results(tmp_path / "two")["test/loss"] == pytest.approx(results(tmp_path / "one")["test/loss"], rel=1e-3)


def test_wheel_from_an_unrelated_folder(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", str(root), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    for name in ("__init__.pyi", "py.typed", "conf/hydra/command.yaml", "conf/data/_source.yaml"):
        assert f"visionlora/{name}" in zipfile.ZipFile(wheel).namelist()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True, timeout=120)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = "import visionlora.cli.conf as a; print(a.conf_dir())"
    env = {"PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, cwd=elsewhere, env=os.environ | env, timeout=60)
    assert shown.stdout.strip() == str(tmp_path / "site" / "visionlora" / "conf")
    done = command("train", *TINY, *QUIET, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=elsewhere, env=env)
    assert done.returncode == 0, done.stderr
    assert results(elsewhere / "run")["epochs"] == 1

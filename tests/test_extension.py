"""A package of somebody else's: installed beside this one, found by name from the command line and from Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUIET
from PIL import Image
from quickly import quickly

PACKAGE = Path(__file__).with_name("extension")
USED = (
    "data=leaves", "data.options.count=16", "data.transform=posterized", "data.options.bits=3", "data.batch_size=8", "data.num_workers=0",
    "model=timm", "model.source=tiny", "model.name=small", "model.pretrained=false", "lora.method=gated", "trainer.max_epochs=10",
    "optim.lr=0.05", "lora.r=4",
)  # fmt: skip


SAME = """
import json, sys, torch, visionlora as vl
run = sys.argv[1]
kept = json.load(open(f"{run}/results.json"))["checkpoint"]
saved, trained = vl.load(run).model, vl.Classifier.load_from_checkpoint(f"{run}/checkpoints/{kept}.ckpt").model.eval()
gates = [parameter for name, parameter in trained.named_parameters() if name.endswith("gate")]
assert any(not torch.equal(gate, torch.ones_like(gate)) for gate in gates), "the gates have not moved"
images = torch.randn(4, 3, 32, 32)
with torch.no_grad():
    torch.testing.assert_close(saved(images), trained(images), atol=1e-5, rtol=1e-5)
"""
"""The adapter, which holds LoRA's factors alone, is the model that was trained with the package's method."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which it is installed: in a folder of its own, so that no other test sees it."""
    site = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(PACKAGE)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr  # hatchling, which builds it, is among the development tools
    here = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), here, os.environ.get("PYTHONPATH", "")])}


def visionlora(environment: dict[str, str], *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    module, *rest = words
    call = [sys.executable, "-m", f"visionlora.{module}", *rest]
    return subprocess.run(call, capture_output=True, text=True, timeout=240, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def run(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    own = f"--config-dir={PACKAGE / 'conf'}"
    done = visionlora(installed, "train", own, *USED, *QUIET, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_with_source_transform_backbone_and_method_of_the_package(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["model"] == "tiny/small"
    assert results["method"] == "gated"
    assert results["test/top1"] == 1.0  # brown and green
    assert results["images/train"] + results["images/val"] + results["images/test"] == 32


TASKS = {
    "brightness": ("grey_values", ("task.delta=0.5",), "mae", ["path", "error", "brightness"]),
    "colours": ("stripes", (), "all_right", ["path", "error", "red", "blue"]),
}
"""Task -> source, options, what leads, and the columns of a prediction."""


@pytest.fixture(scope="module", params=quickly(TASKS, 1))
def of_a_task(request: pytest.FixtureRequest, installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    source, options, *_ = TASKS[request.param]
    folder = tmp_path_factory.mktemp("tasks") / request.param
    words = (f"task={request.param}", *options, f"data.name={source}", "data.options.count=64", "data.batch_size=8", "data.num_workers=0")
    model = (
        "model=timm",
        "model.source=tiny",
        "model.name=small",
        "model.pretrained=false",
        "trainer.max_epochs=12",
        "optim.lr=0.05",
        "recipe=plain",
    )
    done = visionlora(installed, "train", *words, *model, *QUIET, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert TASKS[request.param][2] in (folder / "metrics.csv").read_text().splitlines()[0]
    return request.param, folder


@pytest.mark.slow
def test_a_task_of_the_package_is_trained_and_told(of_a_task: tuple[str, Path], installed: dict[str, str]) -> None:
    name, folder = of_a_task
    lead = TASKS[name][2]
    results = json.loads((folder / "results.json").read_text())
    assert results["task"] == name
    if name == "brightness":
        assert results[f"test/{lead}"] < 0.1
    elif results["precision"] == "bf16-mixed":  # its rate was set there; at float32 the training ends lower
        assert results[f"test/{lead}"] > 0.8
    if name == "brightness":
        assert results["test_before/mae"] == pytest.approx(0.25, abs=0.08)  # the mean of numbers from 0 to 1
        assert "Mean absolute error went from" in (folder / "train.log").read_text()
    assert (folder / "checkpoints/best.ckpt").is_file()
    assert (folder / "curves.png").is_file()
    done = visionlora(installed, "evaluate", f"run={folder}")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "evaluation_test.json").read_text())
    assert found[f"test/{lead}"] == pytest.approx(results[f"test/{lead}"], rel=0.02)  # in float32
    assert "top1" not in done.stdout + json.dumps(found)
    rows = (folder / "evaluation_test/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + results["images/test"]
    done = visionlora(installed, "report", f"runs={folder.parent}", f"output={folder.parent / 'report.html'}")
    assert done.returncode == 0, done.stderr
    assert f"val/{lead}" in done.stdout
    refused = visionlora(installed, "evaluate", f"run={folder}", "temperature=true")
    assert (refused.returncode, "classifiers" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_a_task_of_the_package_predicts_and_is_exported(of_a_task: tuple[str, Path], installed: dict[str, str], tmp_path: Path) -> None:
    name, folder = of_a_task
    Image.new("RGB", (24, 24), (200, 200, 200)).save(tmp_path / "light.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    output = tmp_path / "found.csv"
    done = visionlora(installed, "predict", f"run={folder}", f"input={tmp_path}", f"output={output}")
    assert done.returncode == 0, done.stderr
    header, *rows = output.read_text().splitlines()
    assert header.split(",") == TASKS[name][3]
    assert len(rows) == 2
    if name == "brightness":
        assert float(rows[1].split(",")[-1]) == pytest.approx(1.0, abs=0.2)
    done = visionlora(installed, "export", f"run={folder}", "format=state_dict", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    code = (tmp_path / "out/state_dict/README.md").read_text()
    assert f"A model for {name} with {len(TASKS[name][3]) - 2} outputs" in code
    assert "classes" not in code.partition("## Preparing")[0]


@pytest.mark.slow
def test_goes_on_and_is_loaded_in_python(of_a_task: tuple[str, Path], installed: dict[str, str]) -> None:
    name, folder = of_a_task
    load = f"vl.TaskModule.load_from_checkpoint(r'{folder}/checkpoints/last.ckpt')"
    code = f"import visionlora as vl; task = {load}.task; print(task.name, task.names)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name} [")


def test_an_option_that_the_task_does_not_have(installed: dict[str, str], tmp_path: Path) -> None:
    for words, said in (
        (("task=brightness", "task.dela=1"), "task.dela"),
        (("task=brightnes",), "brightness"),
        (("task.loss=mse",), "task.loss"),
    ):
        done = visionlora(installed, "train", *words, *QUIET, cwd=tmp_path)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_what_reads_a_run_reads_this_one(run: Path, installed: dict[str, str]) -> None:
    done = visionlora(installed, "evaluate", f"run={run}")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "evaluation_test.json").read_text())["test/top1"] == 1.0
    done = subprocess.run([sys.executable, "-c", SAME, str(run)], capture_output=True, text=True, env=installed)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_is_exported_and_goes_on(run: Path, installed: dict[str, str], tmp_path: Path) -> None:
    done = visionlora(installed, "export", f"run={run}", "format=[state_dict,pt2]", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    done = visionlora(installed, "train", *USED, *QUIET, f"--config-dir={PACKAGE / 'conf'}", "ckpt_path=last", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr


def test_the_adapter_is_lora(run: Path) -> None:
    """Its gate is in the factors: who does not have the package can read it."""
    from safetensors.torch import load_file

    state = load_file(run / "adapter/adapter_model.safetensors")
    assert any(key.endswith("lora_A.weight") for key in state)
    assert not any("gate" in key for key in state)
    assert all(torch.isfinite(value).all() for value in state.values())


def test_it_is_listed(installed: dict[str, str]) -> None:
    done = visionlora(installed, "train", "--help")
    for line in (
        "task=brightness",
        "data.name=leaves",
        "data.transform=posterized",
        "model.source=tiny",
        "lora.method=gated",
        "visionlora-leaves 0.3",
    ):
        assert line in done.stdout
    done = visionlora(installed, "train", "lora.method=gatd")
    assert "Did you mean 'gated'" in done.stderr
    done = visionlora(installed, "train", "lora.method=gatd", *QUIET)
    assert done.returncode == 2


def test_without_the_package_a_run_says_what_is_missing(run: Path) -> None:
    done = visionlora(dict(os.environ), "evaluate", f"run={run}")
    assert done.returncode == 2
    assert "leaves" in done.stderr
    assert "unknown" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_the_code_of_the_page_runs(number: int, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run([sys.executable, "-c", blocks[number]], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_page_shows_the_files_of_the_package() -> None:
    page = (Path(__file__).parents[1] / "docs/extending.md").read_text()
    project = (PACKAGE / "pyproject.toml").read_text()
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    assert shown.strip() in project
    assert re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0] == (PACKAGE / "conf/data/leaves.yaml").read_text()

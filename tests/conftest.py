"""What tests share: tiny models, images made on the fly, and commands run as a user runs them."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf
from PIL import Image

from visionlora.cli.command import slug
from visionlora.cli.conf import conf_dir
from visionlora.common.config import checked
from visionlora.runs.config import TrainConfig

pytest_plugins = ("faults.fixtures",)

torch.set_num_threads(1)  # two test processes on two cores

settings.register_profile("quick", max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

KEPT = tempfile.TemporaryDirectory(prefix="visionlora-kept-")  # to the end of the tests
os.environ["VISIONLORA_CACHE"] = KEPT.name
QUICK = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
os.environ["OMP_NUM_THREADS"] = "1"  # of the process that commands are forked from
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["visionlora.training.run", "visionlora.runs.predictor", "visionlora.evaluation", "matplotlib.backends.backend_pdf", "fontTools.subset"]
)

TINY = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data=fake", "data.num_workers=0", "recipe=plain")
QUIET = ("callbacks=none", "trainer.enable_progress_bar=false")


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: they are not looked through for garbage, which took a sixth of the time of quick tests."""
    gc.collect()
    gc.freeze()


def command(
    module: str,
    *overrides: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 240,
    fresh: bool = False,
    limit: int | None = None,
    stdout: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """``python -m visionlora.MODULE OVERRIDES``, finished: in a process of its own, forked from one that has imported torch already.

    With ``env`` or ``fresh`` it is a new interpreter. ``limit`` is the largest size of a file, as of ``ulimit -f``; ``stdout`` a file
    for what it prints.
    """
    call = [sys.executable, "-m", f"visionlora.{module}", *overrides]
    if env or fresh:
        given = os.environ | QUICK | (env or {})
        return subprocess.run(call, capture_output=True, text=True, cwd=cwd, timeout=timeout, env=given)
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        process = FORKS.Process(target=_as_main, args=(module, overrides, cwd or Path.cwd(), streams, limit, stdout))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(call, timeout)
        return subprocess.CompletedProcess(call, process.exitcode or 0, *(stream.read_text() for stream in streams))


def _as_main(module: str, overrides: tuple[str, ...], cwd: Path, streams: tuple[Path, Path], limit: int | None, stdout: str | None) -> None:
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    if stdout is not None:
        os.dup2(os.open(stdout, os.O_WRONLY), 1)
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(cwd)
    gc.freeze()  # what the server has imported is not looked through for garbage in every process again
    as_started_afresh()
    sys.argv = [f"visionlora.{module}", *overrides]
    try:
        runpy.run_module(f"visionlora.{module}", run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def as_started_afresh(**env: str) -> None:
    """Give a process of ``FORKS`` the environment of a command, and the default way to start processes of its own."""
    os.environ.update(QUICK | env)
    multiprocessing.set_start_method(None, force=True)  # worker processes would be started by a server of their own, in five seconds


def compose(*overrides: str) -> TrainConfig:
    """The checked config of ``visionlora.train OVERRIDES``."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return checked(TrainConfig, hydra.compose("train", list(overrides)))


def results(folder: Path) -> dict[str, Any]:
    """What ``results.json`` says, without the hash of it: written anew, it is a file that is read as it is."""
    found = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in found.items() if key != "sha256"}


def unsealed_config(run: Path) -> str:
    """``config.yaml`` without the line that holds its hash."""
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "sha256" not in line)


def unsealed(folder: Path) -> Path:
    """The adapter folder, as of an earlier version: without the hashes that tell that a file was replaced."""
    card = json.loads((folder / "visionlora.json").read_text())
    (folder / "visionlora.json").write_text(json.dumps({key: card[key] for key in card if key not in ("files", "sha256")}))
    return folder


def files_below(*folders: Path) -> list[Path]:
    """Every file in these folders, at any depth."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those of what is packed in it."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                inner = archive.read(name)
                yield inner
                if zipfile.is_zipfile(io.BytesIO(inner)):  # what torch saved
                    with zipfile.ZipFile(io.BytesIO(inner)) as nested:
                        yield from (nested.read(each) for each in nested.namelist())


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny model on fake data."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={folder}", "trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Make class folders: ``class_folders(train={"cat": 3, "dog": 3}, test={…})``; returns their root."""

    def make(root: Path | None = None, **parts: dict[str, int]) -> Path:
        root = root or tmp_path / "pictures"
        root.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for part, classes in parts.items():
            for number, (name, count) in enumerate(classes.items()):
                folder = root / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    pixels = random.integers(0, 60, (24, 24, 3)) + 60 * number
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        return root

    return make


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """For ``make test-faults``: a line for each kind of fault: how often it was tried, and how often all was well."""
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            counts: dict[str, Any] = dict(report.user_properties)
            if "kind" in counts:
                tried[counts["kind"]] += counts.get("tries", 1)
                held[counts["kind"]] += counts.get("held", counts.get("tries", 1) if outcome == "passed" else 0)
    for kind in tried:
        terminalreporter.write_line(f"{kind}: {held[kind]} of {tried[kind]}")

"""A call from Python leaves the process as it was: logging, warnings, random states, torch's settings, environment, signals."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, command, compose
from lightning.pytorch.callbacks import Callback

import visionlora as vl
from visionlora.backbone.create import rebuild
from visionlora.backbone.info import info_of
from visionlora.common.config import checked
from visionlora.common.errors import UserError
from visionlora.common.process_state import process_as_before
from visionlora.common.processes import Termination
from visionlora.data.config import DataConfig
from visionlora.runs.folder import RunFolder
from visionlora.training.run import run

SETTINGS = ("trainer.max_epochs=1", "data.batch_size=16", "logger={}", "trainer.precision=32-true")


def state() -> dict[str, Any]:
    """What a call must not change; random states are in it too."""
    loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    loggers = [each for each in loggers if each.name != "torch.__trace"]  # torch's own affair: its handler goes at the first compilation
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        **{f"logger {each.name}": (each.level, list(each.handlers), each.propagate, each.disabled) for each in loggers},
        "logging": (logging.raiseExceptions, logging.root.manager.disable),
        "warnings": list(warnings.filters),
        "python's random state": random.getstate(),
        "numpy's random state": (numpy[0], numpy[1].tobytes(), *numpy[2:]),  # type: ignore[index]
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "types": (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "matplotlib": (mpl.get_backend(), dict(mpl.rcParams)),
        "python": (sys.excepthook, list(sys.argv), list(sys.path), os.getcwd(), sys.stdout, sys.stderr),
    }


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings that no library and no run would choose, so that one that is put back to a default is found too."""
    names = ("", "lightning.pytorch", "lightning.fabric", "timm.models", "matplotlib", "onnxscript", "torchao")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "timm.models" else logging.DEBUG + 1)
    before = torch.get_num_threads()
    mpl.use("svg")
    torch.manual_seed(123)
    random.seed(5)
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = True
    with warnings.catch_warnings():
        warnings.simplefilter("once", ResourceWarning)
        yield
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(before)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def differing(call: Callable[[], Any], documented: tuple[str, ...] = ()) -> list[str]:
    before = state()
    call()
    after = state()
    return [f"{key}: {before[key]} -> {after[key]}"[:300] for key in before if before[key] != after[key] and key not in documented]


def model() -> torch.nn.Module:
    return vl.create_backbone("timm/test_resnet", num_classes=4, pretrained=False)


def injected() -> torch.nn.Module:
    made = model()
    vl.inject(made, vl.LoraConfig(r=2))
    return made


def refused(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=message):
        call()


CALLS: dict[str, Callable[[Path, Path], Any]] = {
    "create_backbone": lambda run, tmp: model(),
    "inject": lambda run, tmp: injected(),
    "inject, refused": lambda run, tmp: refused(
        "matches no linear or conv layer", lambda: vl.inject(model(), vl.LoraConfig(targets="nothing.like.this"))
    ),
    "merge and unmerge": lambda run, tmp: vl.unmerge(vl.merge(injected())),
    "fold": lambda run, tmp: vl.fold(injected()),
    "save_adapter": lambda run, tmp: vl.save_adapter(injected(), tmp / "adapter"),
}
AS_BEFORE: dict[str, Callable[[Path, Path], Any]] = {
    "load": lambda run, tmp: vl.load(run),
    "load, refused": lambda run, tmp: refused("is not a run folder", lambda: vl.load(tmp)),
    "predict": lambda run, tmp: vl.load(run).predict([torch.zeros(3, 20, 20, dtype=torch.uint8)]),
    "changes": lambda run, tmp: vl.changes(vl.load(run).model),
    "find_runs": lambda run, tmp: vl.configurations(vl.find_runs([run])),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_draws_weights_changes_torchs_random_state_alone(name: str, tiny_run: Path, tmp_path: Path) -> None:
    assert not differing(lambda: CALLS[name](tiny_run, tmp_path), documented=("torch's random state",))


@pytest.mark.parametrize("name", AS_BEFORE)
def test_what_reads_changes_nothing(name: str, tiny_run: Path, tmp_path: Path) -> None:
    assert not differing(lambda: AS_BEFORE[name](tiny_run, tmp_path))


def test_load_adapter_draws_nothing(tiny_run: Path) -> None:
    info = info_of(vl.load(tiny_run).model)
    assert info is not None
    base = rebuild(info, RunFolder(tiny_run).read_base())
    assert not differing(lambda: vl.load_adapter(base, tiny_run / "adapter"))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("trainer.deterministic=true",),
        ("trainer.benchmark=false", "lora.budget=9000", "lora.allocate=importance"),
        ("trainer.lr_find=true",),
    ],
)
def test_a_run(words: tuple[str, ...], tmp_path: Path) -> None:
    config = compose(*TINY, *QUIET, *SETTINGS, *words)
    assert not differing(lambda: run(config, tmp_path))


class Breaks(Callback):
    """In the middle of everything."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("trainer.deterministic=true",), RuntimeError, "broken"),
        (("optim.lr=1e30", "optim.name=sgd", "trainer.max_epochs=9"), UserError, "not finite"),
    ],
)
def test_a_run_that_breaks(words: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path) -> None:
    config = compose(*TINY, *QUIET, *SETTINGS, *words)

    def call() -> None:
        with pytest.raises(error, match=message):
            run(config, tmp_path, [Breaks()] if "trainer.deterministic=true" in words else [])

    assert not differing(call)


def test_a_command_that_was_asked_to_end_stays_deaf_while_it_cleans_up() -> None:
    """A second SIGTERM between the run's end and the command's must not interrupt again."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        Termination.handle()
        with process_as_before():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_seed_of_the_caller_is_no_seed_of_the_run(tmp_path: Path) -> None:
    config = compose(*TINY, *QUIET, *SETTINGS)
    torch.manual_seed(1)
    one = run(config, tmp_path / "one")
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    other = run(config, tmp_path / "other")
    assert one["test/loss"] == other["test/loss"]
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    run(config, tmp_path / "third")
    assert torch.equal(torch.rand(3), expected)


def test_evaluation(tiny_run: Path) -> None:
    from visionlora.evaluation import measure

    folder = RunFolder(tiny_run)
    config = checked(DataConfig, folder.read_section("data"))
    assert not differing(lambda: measure.outcome(*measure.open_run(folder, config), "test"))
    assert not differing(lambda: measure.compare([folder], [config], "test", True))


@pytest.mark.parametrize("name", ["timm", "onnx"])
def test_export(name: str, tiny_run: Path, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    from visionlora.exporting.export import export

    assert not differing(lambda: export(RunFolder(tiny_run), [name], tmp_path / "out"))


def test_compress(tiny_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.quantization")
    from visionlora.exporting.compressing import compress
    from visionlora.exporting.config import CompressConfig

    shutil.copytree(tiny_run, tmp_path / "run")
    config = CompressConfig(run=str(tmp_path / "run"), calibration=8, prune=[])
    assert not differing(lambda: compress(RunFolder(tmp_path / "run"), config))


def test_quantize() -> None:
    pytest.importorskip("torchao")
    from visionlora.speed.quantize import quantize

    vit = vl.create_backbone("timm/test_vit", num_classes=4, pretrained=False)
    assert not differing(lambda: quantize(vit, ("head",)))


@pytest.mark.slow
def test_a_command_may_be_quiet_for_good(tiny_run: Path, tmp_path: Path) -> None:
    """What calls from Python put back, commands keep: none of the libraries' remarks comes through."""
    done = command("train", f"again={tiny_run}", *QUIET, f"hydra.run.dir={tmp_path / 'run'}", fresh=True)
    assert done.returncode == 0
    assert not done.stderr
    assert "GPU available" not in done.stdout

"""Multiruns: ready sweeps, going on with an interrupted one, broken runs, launchers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY, command, results

from visionlora.cli.command import slug
from visionlora.cli.conf import conf_dir
from visionlora.cli.sweeps import expanded
from visionlora.common.errors import UserError

ONE = (*TINY, *QUIET, "trainer.max_epochs=1")
SWEEPS = conf_dir() / "sweep"


def runs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}


def test_a_ready_sweep_is_what_its_file_says() -> None:
    words = expanded(["sweep=rank", "data=fake"], SWEEPS)
    assert words[:4] == ["-m", "lora.r=1,2,4,8,16,32", "seed=0,1,2", "data=fake"]
    assert words[4] == "hydra.job.config.override_dirname.exclude_keys=[data]"
    fixed = expanded(["-m", "data=digits,imagefolder", "++data.root=x", "seed=0", "++data.options.a=1"], SWEEPS)[-1]
    assert fixed == "hydra.job.config.override_dirname.exclude_keys=[data.root,seed]"


def test_a_key_on_the_command_line_takes_the_place_of_the_sweeps() -> None:
    words = expanded(["-m", "sweep=rank", "seed=5", "lora.r=3,4"], SWEEPS)
    assert words[:3] == ["-m", "seed=5", "lora.r=3,4"]


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_ready_sweep_composes(file: Path) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(expanded([f"sweep={file.stem}"], SWEEPS)[1:-1]):
        for value in override.sweep_string_iterator():
            from conftest import compose

            compose(f"{override.key_or_group}={value}")


def test_an_unknown_sweep() -> None:
    with pytest.raises(UserError, match=r"sweep=rnk is not a sweep; .* Did you mean 'rank'"):
        expanded(["sweep=rnk"], SWEEPS)


def test_folder_names_are_short_and_distinct() -> None:
    long = [slug("lora.targets=" + "x" * 200 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) <= 120 and not set("=,[]/ ") & set(name) for name in long)


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What broke is listed and does not stop the rest; what is finished is not run again; what has a checkpoint goes on from it."""
    sweep = f"hydra.sweep.dir={tmp_path}"
    first = command("train", "-m", *ONE, "lora.r=1,0,2", sweep)
    assert first.returncode == 2
    assert list(runs(tmp_path)) == ["run-lora.r-0", "run-lora.r-1", "run-lora.r-2"]
    assert "run-lora.r-0 broke: lora.r=0 is not a rank" in first.stdout
    assert "lora.r=0 is not a rank" in (tmp_path / "run-lora.r-0" / "error.txt").read_text()
    assert f"python -m visionlora.report runs={tmp_path}" in first.stdout
    before = (tmp_path / "run-lora.r-1" / "results.json").stat()
    cut = tmp_path / "run-lora.r-2"
    whole = results(cut)
    (cut / "results.json").unlink()
    shutil.rmtree(cut / "adapter")
    shutil.rmtree(tmp_path / "run-lora.r-0")

    second = command("train", "-m", *ONE, "lora.r=1,2,3", sweep)
    assert second.returncode == 0, second.stderr
    assert "run-lora.r-1 is finished already." in second.stdout
    assert list(runs(tmp_path)) == ["run-lora.r-1", "run-lora.r-2", "run-lora.r-3"]
    assert (tmp_path / "run-lora.r-1" / "results.json").stat() == before
    assert results(cut)["test/loss"] == whole["test/loss"]
    assert results(cut)["epochs"] == 1

    other = command("train", "-m", *ONE, "lora.r=1,2", "optim.weight_decay=0.5", sweep)  # another run in the folder of this name
    assert other.returncode == 2
    assert "holds a run already" in other.stderr
    again = command("train", "-m", *ONE, "lora.r=1,2", sweep)  # and what is finished is not broken by it
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run-lora.r-1" / "results.json").stat() == before


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of rank 1 comes to by itself."""
    folder = tmp_path_factory.mktemp("alone")
    assert command("train", *ONE, "lora.r=1", f"hydra.run.dir={folder}").returncode == 0
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "launcher"),
    [
        ("hydra_joblib_launcher", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")),
        ("hydra_submitit_launcher", ("hydra/launcher=submitit_local",)),
        (
            "hydra_ray_launcher",
            ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
        ),
    ],
    ids=["joblib", "submitit", "ray"],
)
def test_launchers(plugin: str, launcher: tuple[str, ...], alone: dict[str, Any], tmp_path: Path) -> None:
    """Runs in processes of their own end as one alone does: broken ones are told, and together they have no more threads than cores."""
    pytest.importorskip(f"hydra_plugins.{plugin}")
    ranks = "1,0" if plugin == "hydra_joblib_launcher" else "1,2"
    environment = dict.fromkeys(("OMP_NUM_THREADS",), "") if plugin == "hydra_joblib_launcher" else {}
    done = command(
        "train", "-m", *ONE, f"lora.r={ranks}", f"hydra.sweep.dir={tmp_path}", *launcher, fresh=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == (2 if "0" in ranks else 0), done.stderr
    figures = results(tmp_path / "run-lora.r-1")
    assert figures["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-3)
    if "0" in ranks:
        assert "run-lora.r-0 broke: lora.r=0 is not a rank" in done.stdout
        assert figures["threads"] == max((os.cpu_count() or 1) // 2, 1)


@pytest.mark.slow
def test_a_sweep_with_a_finder_goes_on_too(tmp_path: Path) -> None:
    call = ("-m", *ONE, "data.num_images=200", "trainer.batch_size=auto", "lora.r=1,2", f"hydra.sweep.dir={tmp_path}")
    assert command("train", *call).returncode == 0
    again = command("train", *call)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is finished already.") == 2


@pytest.mark.slow  # test-faults kills them
def test_ctrl_c_in_a_parallel_sweep(tmp_path: Path) -> None:
    """As a terminal sends it, to every process: one sentence that says how to go on, and nothing left running."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}")
    long = (*TINY, *QUIET, "data.num_images=4000", "trainer.max_epochs=50", "lora.r=1,2")
    call = [sys.executable, "-m", "visionlora.train", "-m", *long, *parallel]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    deadline = time.time() + 120
    while not list(tmp_path.glob("*/checkpoints/last.ckpt")) and time.time() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"the same command with hydra.sweep.dir={tmp_path} goes on" in stderr
    assert "Traceback" not in stderr

"""``again=RUN``: a finished run from its folder alone, to the same figures and the same bytes; and what a stranger's folder cannot do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUIET, TINY, command, compose, results
from faults.killing import differences
from quickly import quickly

from visionlora.cli.resume import repeated_config
from visionlora.common.errors import UserError
from visionlora.runs.config import TrainConfig, portable, usual_rate


def again(run: Path, folder: Path, *words: str) -> str:
    """Run it again; returns what it printed."""
    done = command("train", f"again={run}", *words, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_run_again_bit_for_bit(tiny_run: Path, tmp_path: Path) -> None:
    said = again(tiny_run, tmp_path / "run", *QUIET)
    assert not differences(tmp_path / "run", tiny_run)
    assert "not as it was" not in said
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["again"] == str(tiny_run)
    again(tmp_path / "run", tmp_path / "third", *QUIET)  # and so is what was run again
    assert not differences(tmp_path / "third", tiny_run)


@pytest.mark.slow
def test_a_folder_of_pictures_is_run_again_bit_for_bit(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    """Split, augmentation, dropout, a learning rate and ranks that were chosen by looking: all of it again; more processes, no matter."""
    root = class_folders(train={"cat": 60, "dog": 60})
    chosen = ("data.crop_scale=[0.5,1.0]", "data.randaugment=1", "lora.dropout=0.2", "lora.budget=9000", "lora.allocate=importance")
    found = ("trainer.lr_find=true", "trainer.batch_size=auto", "data.image_size=32", "trainer.max_epochs=2", "seed=3")
    call = (*TINY, *QUIET, "data=imagefolder", f"data.root={root.relative_to(tmp_path)}", *chosen, *found, "hydra.run.dir=run")
    done = command("train", *call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "found/lr" in results(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    again(tmp_path / "run", tmp_path / "elsewhere" / "run", *QUIET, "data.num_workers=1")
    left = differences(tmp_path / "elsewhere" / "run", tmp_path / "run")
    assert [line.split()[1] for line in left] == ["found/batch_size", "found/lr"]  # taken from the config, not looked for again


@pytest.mark.slow
def test_one_run_of_a_sweep_is_run_again_bit_for_bit(tmp_path: Path) -> None:
    sweep = ("-m", *TINY, *QUIET, "trainer.max_epochs=1", "lora=default,dora", "seed=1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert command("train", *sweep).returncode == 0
    member = tmp_path / "sweep" / "run-lora-dora"
    again(member, tmp_path / "alone", *QUIET)
    assert not differences(tmp_path / "alone", member)

    swept = command("train", "-m", f"again={member}", *QUIET, "lora.r=1,2", f"hydra.sweep.dir={tmp_path / 'more'}")  # and swept over
    assert swept.returncode == 0, swept.stderr
    figures = [results(tmp_path / "more" / f"run-lora.r-{r}") for r in (1, 2)]
    assert [figure["method"] for figure in figures] == ["dora", "dora"]
    assert figures[0]["params/adapter"] < figures[1]["params/adapter"]
    goes_on = command("train", "-m", f"again={member}", *QUIET, "lora.r=1,2", f"hydra.sweep.dir={tmp_path / 'more'}")
    assert goes_on.stdout.count("is finished already.") == 2


def test_another_seed_is_another_run(tiny_run: Path, tmp_path: Path) -> None:
    """What is compared can differ."""
    again(tiny_run, tmp_path / "run", *QUIET, "seed=1")
    assert "adapter/adapter_model.safetensors" in differences(tmp_path / "run", tiny_run)


def altered(run: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(run, folder)
    (folder / "results.json").write_text(json.dumps(results(run) | {key.replace("__", "/"): value for key, value in changes.items()}))
    return folder


def test_it_says_in_one_line_what_is_not_as_it_was(tiny_run: Path, tmp_path: Path) -> None:
    run = altered(tiny_run, tmp_path / "then", versions__torch="2.10.0", threads=64, fingerprint__pictures="others", machine__os="x")
    (line,) = [line for line in again(run, tmp_path / "now", *QUIET).splitlines() if "not as it was" in line]
    for part in ("versions/torch 2.10.0 -> ", "threads 64 -> 1", "fingerprint/pictures others -> "):
        assert part in line
    assert "machine/os" not in line

    (run / "results.json").write_text(json.dumps({"test/top1": 0.5}))  # as an earlier version wrote it
    assert "does not say with which versions" in again(run, tmp_path / "later", *QUIET)


def stored(folder: Path, *overrides: str, **sections: Any) -> Path:
    """A run folder that holds a config alone."""
    folder.mkdir(parents=True, exist_ok=True)
    values = portable(compose(*overrides)) | sections
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def repeated(run: Path, *words: str) -> TrainConfig:
    words = (f"again={run}", *words)
    return repeated_config(compose(*words), words)


def test_what_is_given_beside_it_wins(tmp_path: Path) -> None:
    then = (
        "model=resnet18",
        "lora.r=16",
        "lora.targets={all: 2}",
        "trainer.max_epochs=7",
        "optim.weight_decay=0.5",
        "trainer.log_every_n_steps=3",
    )
    run = stored(tmp_path, *then, "data=imagefolder", "data.root=images")
    same = repeated(run)
    theirs = portable(compose(*then, "data=imagefolder", "data.root=images"))
    assert {key: portable(same)[key] for key in theirs if key != "again"} == {key: theirs[key] for key in theirs if key != "again"}

    key = repeated(run, "lora.r=4", "lora.targets={conv: 1}", "trainer.max_epochs=3", "~trainer.log_every_n_steps", "trainer.min_epochs=1")
    assert (key.lora.r, key.lora.targets, key.model.name, key.optim.weight_decay) == (4, {"conv": 1}, "resnet18", 0.5)
    assert key.trainer["max_epochs"] == 3  # the default, and all the same what was asked for
    assert (key.trainer.get("log_every_n_steps"), key.trainer["min_epochs"]) == (None, 1)

    group = repeated(run, "lora=dora", "data=fake", "seed=5")
    assert (group.lora.method, group.lora.r, group.data.name, group.seed) == ("dora", compose().lora.r, "fake", 5)
    assert group.model.name == "resnet18"


@pytest.mark.parametrize(
    ("then", "words", "rate"),
    [
        ((), (), 3e-3),
        ((), ("lora=full",), 3e-4),  # a usual rate is that of what is trained now
        (("lora=full",), ("optim=sgd",), 5e-3),
        (("optim.lr=0.02",), ("lora=full",), 0.02),
        (("lora=full",), ("optim.lr=0.003",), 0.003),  # given, although it is usual for something else
        (("lora=full", "optim.lr=1"), ("optim.lr=null",), 3e-4),
        (("lora=full",), ("optim=sgd", "optim.lr=0.7"), 0.7),
    ],
)
def test_the_learning_rate(then: tuple[str, ...], words: tuple[str, ...], rate: float, tmp_path: Path) -> None:
    config = repeated(stored(tmp_path, *then), *words)
    assert (config.optim.lr or usual_rate(config.optim.name, config.lora)) == pytest.approx(rate)


def test_a_run_that_began_from_a_checkpoint_begins_from_it_again(tmp_path: Path) -> None:
    assert repeated(stored(tmp_path, ckpt_path="/other/best.ckpt")).ckpt_path == "/other/best.ckpt"
    assert repeated(stored(tmp_path, ckpt_path="/other/best.ckpt"), "ckpt_path=null").ckpt_path is None
    assert repeated(stored(tmp_path, ckpt_path="last")).ckpt_path is None  # interrupted, and the same as in one go
    with pytest.raises(UserError, match="went on from its best checkpoint"):
        repeated(stored(tmp_path, ckpt_path="best"))


def test_a_resumed_run_still_knows_the_file_it_began_from(tiny_run: Path, tmp_path: Path) -> None:
    file, run = tiny_run / "checkpoints/previous.ckpt", tmp_path / "run"  # after one of the two epochs
    for began in (str(file), "last"):
        done = command("train", *TINY, *QUIET, "trainer.max_epochs=2", f"ckpt_path={began}", f"hydra.run.dir={run}")
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] == str(file)


def test_a_callback_is_asked_for_and_not_made(tmp_path: Path) -> None:
    run = stored(tmp_path, "callbacks=early_stopping", "callbacks.early_stopping.patience=1")
    with pytest.raises(UserError, match=r"had callbacks\.early_stopping"):
        repeated(run)
    with pytest.raises(UserError, match=r"had callbacks\.early_stopping"):
        repeated(run, "seed=1")
    given = repeated(run, "callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    assert given.callbacks["early_stopping"]["patience"] == 2
    assert "early_stopping" not in repeated(run, "callbacks=default").callbacks


SECRET = "${oc.env:VISIONLORA_SECRET}"
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a class in the model": ({"model": {"_target_": "os.system", "command": "touch HERE"}}, "unknown key model."),
    "a class in the loss": ({"lora": {"method": {"_target_": "os.mkdir", "path": "HERE"}}}, "lora.method"),
    "a class in the trainer": (
        {"trainer": {"max_epochs": 1, "plugins": {"_target_": "os.mkdir", "path": "HERE"}}},
        "unknown key trainer.plugins",
    ),
    "a class as the trainer's strategy": (
        {"trainer": {"max_epochs": 1, "strategy": {"_target_": "os.mkdir", "path": "HERE"}}},
        "trainer.strategy",
    ),
    "a class among the callbacks": ({"callbacks": {"x": {"_target_": "os.mkdir", "path": "HERE"}}}, "no class is made from a run's folder"),
    "a variable of ours": ({"data": {"name": "imagefolder", "root": SECRET}}, "has an interpolation"),
    "a variable of ours, in a list": ({"lora": {"targets": ["all", SECRET]}}, "has an interpolation"),
    "a variable of ours, as a section": ({"optim": SECRET}, "has an interpolation"),
    "a section that is not there": ({"lora": None}, "lora is not a mapping"),
    "a section of another kind": ({"optim": [1, 2]}, "optim is not a mapping"),
    "a value of another kind": ({"seed": {"a": 1}}, "seed"),
    "a value beyond its limits": ({"seed": -1}, "seed=-1"),
    "a name that cannot be looked up": ({"optim": {"name": ["adamw"]}}, "optim.name"),
    "a value to be given": ({"data": {"name": "???", "root": "x"}}, "data.name is not set"),
    "an unknown key": ({"lora": {"rank": 3}}, "unknown key lora.rank"),
    "finders of another kind": ({"trainer": [1]}, "trainer is a list"),
}


@pytest.mark.parametrize("case", quickly(HOSTILE, 6, pytest.mark.faults))
def test_a_hostile_config_is_one_sentence(case: str, tmp_path: Path) -> None:
    """As a command: nothing is made, run or read, and nothing is left behind."""
    sections, said = HOSTILE[case]
    here = tmp_path / "made"
    text = json.dumps(sections).replace("HERE", str(here))
    run = stored(tmp_path / "theirs", *TINY, *QUIET, **json.loads(text))
    done = command("train", f"again={run}", "hydra.run.dir=new", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not here.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("again=nowhere",), "again=nowhere is not a run folder"),
        (("again={run}", "experiment=cifar10_lite0", "data.root=x"), "name the keys that are to differ"),
        (("again={run}", "hydra.run.dir={run}"), "holds a run already"),
        (("again={run}", "lora.r=0"), "lora.r=0"),
    ],
)
def test_mistakes(words: tuple[str, ...], said: str, tiny_run: Path, tmp_path: Path) -> None:
    done = command("train", *(word.format(run=tiny_run) for word in words), *QUIET, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr

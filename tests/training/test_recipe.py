"""What is left open is chosen for the images, the method and the machine; what is given wins, and both are told and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import placed
import pytest
import timm
import torch
from conftest import QUIET, TINY, command, compose, results
from omegaconf import OmegaConf
from quickly import quickly

import visionlora as vl
from visionlora.backbone.info import info_of
from visionlora.common.errors import UserError
from visionlora.lora.adapter import Adapter
from visionlora.runs import config as config_module
from visionlora.runs.config import usual_rate
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import same_run
from visionlora.training import recipe
from visionlora.training.recipe_table import PLAIN, TABLE, row_for
from visionlora.training.run import run

TYPED = (*TINY, *QUIET, "recipe=auto", "trainer.precision=32-true", "data.num_images=48", "data.image_size=64")
OPEN = (*TYPED, "logger={}")
QUICK = ("trainer.max_epochs=1", "data.folds=0", "data.val_fraction=0.25")


@pytest.fixture(scope="module")
def known_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Overrides for a backbone whose weights are no random ones of this run."""
    file = tmp_path_factory.mktemp("weights") / "test_resnet.pt"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    return "model.pretrained=true", f"model.weights={file}"


def chosen(folder: Path) -> dict[str, dict[str, object]]:
    found = json.loads((folder / "recipe.json").read_text())
    return {choice["key"]: choice for choice in found["choices"]}


def test_open_settings_are_those_of_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str], known_weights: tuple[str, str]) -> None:
    config = compose(*OPEN, *known_weights, "data.folds=0", "data.val_fraction=0.25", "data.batch_size=null", "optim.strength=all")
    run(config, tmp_path)
    found, (row, _) = chosen(tmp_path), row_for(36, 9, "lora")
    assert found["model.head_init"]["value"] == row.head == "probe"
    assert found["data.batch_size"]["value"] == min(row.batch, results(tmp_path)["images/train"])
    assert found["trainer.max_epochs"]["value"] == row.epochs == results(tmp_path)["epochs"]
    assert found["optim.lr"]["value"] == pytest.approx(usual_rate("adamw", config.lora) * row.rate, rel=1e-2)
    said = capsys.readouterr().out
    assert all(key in said for key in found)
    written = (tmp_path / "config.yaml").read_text()
    assert f"max_epochs: {row.epochs}" in written
    assert "head_init: probe" in written


def test_few_images_that_nothing_is_measured_on_give_the_probe(
    tmp_path: Path, class_folders: Callable[..., Path], known_weights: tuple[str, str]
) -> None:
    root = class_folders(train=dict.fromkeys("abc", 1), test=dict.fromkeys("abc", 4))
    words = [word for word in OPEN if not word.startswith(("data=", "data.num_images"))]
    own = (*words, *known_weights, "data=imagefolder", f"data.root={root}")
    run(compose(*own, "data.batch_size=null"), tmp_path / "open")
    found = chosen(tmp_path / "open")
    assert found["optim.strength"]["value"] == "none"
    assert str(found["optim.strength"]["why"]).startswith("there is no validation part to choose by")
    assert found["trainer.max_epochs"]["value"] == 1
    run(compose(*own, "recipe=plain", "lora=none", "model.head_init=probe", "optim.lr=1e-9"), tmp_path / "probe")
    ours, probe = results(tmp_path / "open"), results(tmp_path / "probe")
    assert (ours["strength/update"], ours["strength/head"]) == (0, 0)
    assert ours["test/loss"] == pytest.approx(probe["test/loss"], rel=1e-3)


def test_a_backbone_with_random_weights_has_no_probe_to_start_from(tmp_path: Path) -> None:
    run(compose(*OPEN, *QUICK), tmp_path)
    head = chosen(tmp_path)["model.head_init"]
    assert head["value"] == "random"
    assert head["why"] == "no probe, as the weights of the backbone are random"


def test_what_is_given_wins_and_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str], known_weights: tuple[str, str]) -> None:
    run(compose(*OPEN, *known_weights, *QUICK, "optim.lr=0.5e-3", "model.head_init=random"), tmp_path)
    found = chosen(tmp_path)
    assert (found["optim.lr"]["value"], found["model.head_init"]["value"]) == (0.5e-3, "random")
    assert found["model.head_init"]["instead"] == "probe"
    assert results(tmp_path)["epochs"] == 1
    assert "as you say" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "rank"), [("seed=0", 16), ("lora.r=2", 2), ("recipe=plain", 4), ("lora.targets={conv1: 3}", 3)])
def test_the_rank_is_the_recipes_where_it_is_left_open(word: str, rank: int, tmp_path: Path) -> None:
    run(compose(*OPEN, "data.image_size=32", "trainer.max_steps=1", "data.val_fraction=0", word), tmp_path)
    assert max(module.r for module in vl.load(tmp_path).model.modules() if isinstance(module, Adapter)) == rank
    assert ("lora.r" in chosen(tmp_path)) == (rank != 3)


def test_plain_is_the_same_for_all_data(tmp_path: Path) -> None:
    run(compose(*OPEN, "recipe=plain", "data.batch_size=null"), tmp_path)
    found = {key: choice["value"] for key, choice in chosen(tmp_path).items()}
    assert found == {
        "lora.r": 4,
        "model.head_init": PLAIN.head,
        "data.batch_size": results(tmp_path)["images/train"],
        "optim.lr": 3e-3,
        "optim.strength": "all",
        "trainer.max_epochs": PLAIN.epochs,
    }
    assert results(tmp_path)["folds"] == 0


CROPS: list[tuple[int, tuple[str, ...], list[float] | None, str]] = [
    (10, ("trainer.max_epochs=5",), None, "squash"),
    (100, ("trainer.max_epochs=2",), [0.35, 1.0], "center"),
    (10, ("trainer.max_epochs=6",), [0.35, 1.0], "center"),
    (10, ("trainer.max_steps=1", "trainer.max_epochs=9"), None, "squash"),
    (10, ("trainer.max_steps=1",), None, "squash"),
    (10, ("trainer.max_epochs=2", "recipe=plain"), [0.35, 1.0], "center"),
    (10, ("trainer.max_epochs=2", "data.crop_scale=[0.5,1.0]"), [0.5, 1.0], "center"),
]


@pytest.mark.parametrize(("many", "words", "crop", "mode"), quickly(CROPS, 2, names=4))
def test_crops_are_left_out_where_many_images_are_seen_a_few_times(
    many: int, words: tuple[str, ...], crop: list[float] | None, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "MANY", many)
    run(compose(*OPEN, "data.crop_scale=auto", "data.image_size=32", "data.val_fraction=0", *words), tmp_path)
    assert OmegaConf.load(tmp_path / "config.yaml").data.crop_scale == crop
    info = info_of(vl.load(tmp_path).model)
    assert info is not None
    assert info.preprocessing.crop_mode == mode
    found = chosen(tmp_path)["data.crop_scale"]
    assert (found["value"], found["instead"]) == (crop, "null" if crop == [0.5, 1.0] else None)
    measured = results(tmp_path)
    assert command("evaluate", f"run={tmp_path}", "figures=false").returncode == 0
    again = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert again["test/loss"] == pytest.approx(measured["test/loss"], rel=1e-5)


def test_minutes_cut_the_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose(*OPEN, "recipe.minutes=0.0001", "data.folds=0", "data.val_fraction=0.25"), tmp_path)
    assert results(tmp_path)["epochs"] == 1
    assert "recipe.minutes=0.0001" in capsys.readouterr().out


def test_a_head_that_has_no_probe_starts_at_random(tmp_path: Path) -> None:
    model = ("model.source=torchvision", "model.name=squeezenet1_1")
    run(compose(*OPEN, *QUICK, *model), tmp_path)
    found = chosen(tmp_path)
    assert found["model.head_init"]["value"] == "random"
    assert "not a linear layer" in str(found["model.head_init"]["why"])
    assert found["optim.strength"]["value"] == "all"


def test_a_resumed_run_and_one_run_again_keep_what_was_chosen(tmp_path: Path) -> None:
    first = command("train", *TYPED, "data.folds=0", "data.val_fraction=0.25", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'a'}")
    assert first.returncode == 0, first.stderr
    again = command("train", f"again={tmp_path / 'a'}", *QUIET, f"hydra.run.dir={tmp_path / 'b'}")
    assert again.returncode == 0, again.stderr
    same = [{key: results(tmp_path / name)[key] for key in ("test/loss", "val/loss", "epochs")} for name in "ab"]
    assert same[0] == same[1]


def test_the_table_goes_up() -> None:
    assert [row.most for row in TABLE] == sorted(row.most for row in TABLE)
    assert row_for(10**9, 10**6, "lora")[0] == TABLE[-1]


@pytest.mark.parametrize("word", ["recipe=slow", "recipe.minutes=0", "recipe.minutes=-1"])
def test_what_there_is_not_is_told(word: str) -> None:
    done = command("train", *TYPED, word)
    assert done.returncode == 2
    assert "recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_folds_that_cannot_be_had_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose(*OPEN, "trainer.max_epochs=1", "data.folds=3", "lora=dora"), tmp_path)
    assert "data.folds=3: there are none, as with lora.method=dora" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"data\.folds=1 must be auto, 0"):
        compose(*OPEN, "data.folds=1")


def test_a_run_without_crops_goes_on_where_the_command_is_typed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MANY", 10)
    words = (*TYPED, "data.crop_scale=auto", "data.image_size=32", "trainer.max_epochs=2")
    run(compose(*words, "logger={}"), tmp_path)
    gone_on = command("train", *words, "ckpt_path=last", f"hydra.run.dir={tmp_path}")
    assert "laid out with another" not in gone_on.stderr
    assert gone_on.returncode == 0


PLACED: list[tuple[str, str, float, float | None]] = [
    ("segment", "default", 3e-3, 9e-3),
    ("detect", "full", 3e-4, 3e-3),  # what is new has the adapters' rate also where everything is trained
    ("detect", "default", 6e-3, 3e-3),
    ("segment", "full", 3e-4, 9e-3),
    ("segment", "none", 9e-3, None),
    ("detect", "none", 9e-3, None),
]


@pytest.mark.parametrize(("task", "lora", "rate", "of_new"), quickly(PLACED, 3, names=4))
def test_a_sweep_finds_again_what_its_recipe_chose_for_boxes_and_masks(
    task: str, lora: str, rate: float, of_new: float | None, tmp_path: Path
) -> None:
    source, write = {"segment": ("masks", placed.write_masks), "detect": ("voc", placed.write_voc)}[task]
    root = write(tmp_path / "data", {"train": 4, "val": 2, "test": 2})
    words = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data.num_workers=0", "trainer.max_steps=1", *QUIET)
    config = compose(f"task={task}", f"data={source}", f"data.root={root}", f"lora={lora}", "data.image_size=64", *words, "logger={}")
    run(config, tmp_path / "run")
    optim = OmegaConf.load(tmp_path / "run/config.yaml").optim
    assert (optim.lr, optim.head_lr) == (rate, of_new)
    assert set(chosen(tmp_path / "run")) <= set(config_module.OPEN)
    assert same_run(config, RunFolder(tmp_path / "run"))


def test_boxes_in_few_epochs_have_the_usual_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RATES", {"detect": (3, 2.0)})
    root = placed.write_voc(tmp_path / "data", {"train": 4, "val": 2, "test": 2})
    words = ("model=timm", "model.name=test_resnet", "model.pretrained=false", "data.num_workers=0", "trainer.max_steps=1", *QUIET)
    run(compose("task=detect", "data=voc", f"data.root={root}", "data.image_size=64", *words, "logger={}"), tmp_path / "run")
    assert chosen(tmp_path / "run")["optim.lr"]["value"] == 3e-3

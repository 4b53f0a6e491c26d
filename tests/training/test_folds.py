"""Cross-validation in place of a validation split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, compose, results

import visionlora as vl
from visionlora.data.module import ImageData
from visionlora.data.split import fold_parts
from visionlora.model.saving import trained_state
from visionlora.runs.folder import RunFolder
from visionlora.training import strength
from visionlora.training.kept import Strength
from visionlora.training.run import run
from visionlora.training.strength import HEADS, UPDATES

SETTINGS = (
    *TINY,
    *QUIET,
    "logger={}",
    "recipe=auto",
    "trainer.precision=32-true",
    "data.num_images=40",
    "data.image_size=64",
    "data.batch_size=8",
)
SHORT = (*SETTINGS, "trainer.max_epochs=2")


def test_every_image_is_held_out_once_by_a_model_that_has_not_seen_it() -> None:
    data = ImageData(compose(*SETTINGS, "data.folds=4").data)
    assert "val" not in data.parts
    train = data.parts["train"]
    parts = fold_parts(train, data.folds, 0, data.task)
    assert sorted(index for _, held in parts for index in held) == list(range(len(train)))
    for kept, held in parts:
        assert not set(kept) & set(held)
        counts = Counter(train.labels[i] for i in held)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_run_trains_on_all_and_says_what_folds_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose(*SHORT), tmp_path)
    found = results(tmp_path)
    assert found["folds"] == 5
    assert found["images/train"] == 40
    assert "images/val" not in found
    assert found["strength/update"] in UPDATES
    assert found["strength/head"] in HEADS
    assert 0 <= found["val/top1"] <= 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fold 5 of 5" in said
    assert "by a model of the 5 folds that has not seen it" in said
    kept = Strength.read(tmp_path / "strength.json")
    assert kept.images == 40
    assert kept.kept is not None
    assert kept.kept.score >= next(one.score for one in kept.tried if (one.update, one.head) == (1.0, 1.0))
    assert vl.load(tmp_path).classes


def test_out_of_fold_figures_are_those_of_a_model_trained_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the update: what a fold says of its images is what a run that trains on the others says of them."""
    monkeypatch.setattr("visionlora.training.strength.UPDATES", (1.0,))
    monkeypatch.setattr("visionlora.training.strength.HEADS", (1.0,))
    apart = (*SHORT, "model.head_init=random", "optim.lr=0.01", "optim.soup=false")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = strength.outputs_between

    def noted(*arguments: Any) -> Any:
        outputs, targets = real(*arguments)
        seen.append((outputs[1.0, 1.0], targets))
        return outputs, targets

    monkeypatch.setattr("visionlora.training.folds.outputs_between", noted)
    config = compose(*apart, "data.folds=2")
    run(config, tmp_path / "folds")
    data = ImageData(config.data)
    train = data.parts["train"]
    kept, held = fold_parts(train, 2, config.data.split_seed, data.task)[0]
    parts = {"train": train.subset(kept), "test": train.subset(held)}
    record = {part: images.names for part, images in parts.items()}
    monkeypatch.setattr("visionlora.data.module.complete", lambda *_: (parts, record))
    run(compose(*apart, "data.folds=0", "data.val_fraction=0"), tmp_path / "one")
    outputs, targets = seen[0]
    loss = float(torch.nn.functional.cross_entropy(outputs, targets))
    assert results(tmp_path / "one")["test/loss"] == pytest.approx(loss, rel=1e-4)


def test_the_soup_is_half_of_the_folds_and_half_of_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionlora.training.strength.UPDATES", (1.0,))
    monkeypatch.setattr("visionlora.training.strength.HEADS", (1.0,))
    states: list[dict[str, torch.Tensor]] = []
    real = strength.outputs_between

    def noted(trainer: Any, model: torch.nn.Module, *more: Any) -> Any:
        states.append({key: value.clone() for key, value in trained_state(model).items()})
        return real(trainer, model, *more)

    monkeypatch.setattr("visionlora.training.folds.outputs_between", noted)
    run(compose(*SHORT, "data.folds=2", "optim.soup=true"), tmp_path)
    states.append(torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert len(states) == 3
    saved = trained_state(vl.load(tmp_path).model)
    for key, value in saved.items():
        if value.is_floating_point() and key in states[0]:
            torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 4 + states[2][key] / 2, rtol=1e-4, atol=1e-6)


def test_the_only_image_of_a_class_is_in_every_fold(
    tmp_path: Path, class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(train={"cat": 1, "dog": 4, "elk": 6}, test={"cat": 2, "dog": 2, "elk": 2})
    words = [word for word in SHORT if word != "data=fake" and not word.startswith("data.num_images")]
    run(compose(*words, "data=imagefolder", f"data.root={root}"), tmp_path / "run")
    assert results(tmp_path / "run")["folds"] == 5
    assert Strength.read(tmp_path / "run" / "strength.json").images == 10
    assert "One training image only, never held out: class 'cat'." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("data.folds=auto",), 5),
        (("data.folds=0",), 0),
        (("data.val_fraction=0.2",), 0),
        (("data.folds=2",), 2),
        (("data.folds=4", "data.val_fraction=0.2"), 4),
    ],
)
def test_when_there_are_folds(words: tuple[str, ...], count: int) -> None:
    data = ImageData(compose(*SETTINGS, *words).data)
    assert data.folds == count
    assert ("val" in data.parts) == (count == 0)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    from visionlora.common.errors import UserError

    file = tmp_path / RunFolder(tmp_path).strength.name
    for text in ("{}", '{"kept": 1}', "[", '{"kept": {}, "tried": [], "images": 1, "folds": 1, "figures": null}'):
        file.write_text(text)
        with pytest.raises(UserError, match=r"strength\.json"):
            Strength.read(file)

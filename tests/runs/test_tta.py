"""Views of an image at prediction, and the average of what the model says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command

import visionlora as vl
from visionlora.runs.tta import averaged, views
from visionlora.tasks.registry import make_task

IMAGES = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).reshape(2, 3, 16, 16)


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flip", 2), ("crops", 5), ("scales", 3)])
def test_views_have_the_size_of_the_images_which_come_first(kind: str, count: int) -> None:
    found = list(views(IMAGES, kind))
    assert len(found) == count
    assert torch.equal(found[0], IMAGES)
    assert {view.shape for view in found} == {IMAGES.shape}
    assert len({view.sum(dim=(1, 2, 3)).tolist().__repr__() + view[0, 0, 0].tolist().__repr__() for view in found}) == count


def test_probabilities_are_averaged() -> None:
    task = make_task("classify", ["a", "b"])
    outputs = iter([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])])
    found = averaged(lambda _: next(outputs), IMAGES[:1], "flip", task).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]))


def test_a_mirrored_image_gets_the_same_answer(tiny_run: Path) -> None:
    predictor = vl.load(tiny_run)
    predictor.tta = "flip"
    image = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    one, other = (predictor.logits(predictor.prepare(array)[None]) for array in (image, np.ascontiguousarray(image[:, ::-1])))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_evaluate_says_what_it_is_worth_and_keeps_the_plain_evaluation(tiny_run: Path) -> None:
    done = command("evaluate", f"run={tiny_run}", "tta=flip", "figures=false")
    assert done.returncode == 0, done.stderr
    assert "without it" in done.stdout
    assert "times the time" in " ".join(done.stdout.split())
    assert "test/top1" in json.loads((tiny_run / "evaluation_test_flip.json").read_text())


def test_predict_takes_views(tiny_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    rows = []
    for kind in ("none", "crops"):
        done = command("predict", f"run={tiny_run}", f"input={tmp_path / 'a.png'}", f"tta={kind}", f"output={tmp_path / kind}.csv")
        assert done.returncode == 0, done.stderr
        rows.append((tmp_path / f"{kind}.csv").read_text())
    assert rows[0] != rows[1]
    refused = command("predict", f"run={tiny_run}", f"input={tmp_path / 'a.png'}", "tta=zoom")
    assert refused.returncode == 2
    assert "tta=zoom is unknown" in refused.stderr

"""Figures of an evaluation against scikit-learn, statsmodels-like formulas and brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_fscore_support

from visionlora.data.images import Images
from visionlora.evaluation.writing import write_outcome
from visionlora.tasks.classify.classified import Classified, temperature_of
from visionlora.tasks.classify.plots import confused, confusion, most_wrong
from visionlora.tasks.registry import make_task


def made(n: int = 300, classes: int = 6, sharpness: float = 2.0, seed: int = 0) -> Classified:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 1.5
    arrays = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    images = Images.of_arrays(arrays, labels.tolist())
    found = make_task("classify", [f"c{i}" for i in range(classes)]).outcome("test", logits * sharpness, labels, images)
    assert isinstance(found, Classified)
    return found


def test_metrics_are_scikit_learns() -> None:
    found = made()
    metrics, predicted = found.metrics(), found.predicted
    assert metrics["test/top1"] == pytest.approx((predicted == found.targets.numpy()).mean())
    assert metrics["test/f1"] == pytest.approx(f1_score(found.targets, predicted, average="macro"), rel=1e-5)
    assert metrics["test/f1_weighted"] == pytest.approx(f1_score(found.targets, predicted, average="weighted"), rel=1e-5)
    precision, recall, _, support = precision_recall_fscore_support(found.targets, predicted, zero_division=0)
    report = found.report()
    for i, name in enumerate(found.classes):
        assert report[name]["precision"] == pytest.approx(precision[i])
        assert report[name]["recall"] == pytest.approx(recall[i])
        assert report[name]["support"] == support[i]


def test_the_interval_is_about_the_normal_one() -> None:
    found = made(2000)
    p = found.right.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / 2000)
    low, high = found.interval()
    assert low == pytest.approx(p - half, abs=0.004)
    assert high == pytest.approx(p + half, abs=0.004)


def test_calibration_error_by_hand() -> None:
    found = made()
    sure = found.probabilities.max(-1).values.numpy()
    bins = np.minimum((sure * 15).astype(int), 14)
    by_hand = sum(abs(sure[bins == b].mean() - found.right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert found.calibration_error() == pytest.approx(by_hand, abs=1e-5)


def test_the_temperature_undoes_a_factor_and_keeps_the_order() -> None:
    calm = made(5000, sharpness=1.0)
    best = temperature_of(calm)
    assert temperature_of(made(5000, sharpness=4.0)) == pytest.approx(4 * best, rel=1e-2)
    hot = made(5000, sharpness=4.0)
    scaled = hot.scaled(temperature_of(hot))
    assert scaled.calibration_error() < hot.calibration_error() / 2
    assert (scaled.right == hot.right).all()


def test_mcnemar_is_the_exact_binomial() -> None:
    one, other = made(seed=0), made(seed=3)
    b, c = int((one.right & ~other.right).sum()), int((~one.right & other.right).sum())
    n, k = b + c, min(b, c)
    from math import comb

    tail = sum(comb(n, i) for i in range(k + 1)) / 2**n
    assert one.p_against(other) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert one.p_against(one) == 1.0


def test_confused_pairs_and_most_wrong() -> None:
    found = made()
    table = found.confusion()
    pairs = found.confused(3)
    off = sorted((table[i, j] for i in range(6) for j in range(6) if i != j), reverse=True)
    assert [n for *_, n in pairs] == off[:3]
    assert all(table[true, taken] == n for true, taken, n in pairs)
    wrong = found.most_wrong(5)
    sure = found.probabilities.max(-1).values.numpy()
    assert not found.right[wrong].any()
    assert list(sure[wrong]) == sorted(sure[~found.right], reverse=True)[:5]


@pytest.mark.parametrize("perfect", [False, True])
def test_pictures(perfect: bool, tmp_path: Path) -> None:
    found = made(60)
    if perfect:
        found = replace(found, outputs=torch.eye(6)[found.targets] * 9)
    write_outcome(made(60), tmp_path)  # what is left of an earlier evaluation goes
    write_outcome(found, tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"confusion.png", "reliability.png"} | (set() if perfect else {"most_wrong.png", "confused.png"})
    assert (tmp_path / "mistakes.html").is_file() != perfect
    assert all(path.stat().st_size > 5_000 for path in tmp_path.glob("*.png"))
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"{Path(name).stem}.pdf" for name in names}
    assert all(path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 5_000 for path in (tmp_path / "figures").iterdir())


def test_sheets_name_the_file_and_the_true_class() -> None:
    found = made(60)
    paths = [f"test/c{label}/picture_{i}.png" for i, label in enumerate(found.targets)]
    assert isinstance(found.images, Images)
    found = replace(found, images=replace(found.images, names=paths))
    (wrongest, *_), ((true, taken, number), *_) = found.most_wrong(), found.confused()
    words = [axes.get_title() for axes in most_wrong(found).axes]
    assert words[0].splitlines()[0] == f"is c{int(found.targets[wrongest])}"
    assert words[0].splitlines()[2] == f"picture_{wrongest}.png"
    figure = confused(found)
    assert figure.axes[0].texts[0].get_text().split("\n") == [f"c{true}", "taken for", f"c{taken}", f"{number} ×"]
    first = int(figure.axes[0].get_title().removeprefix("picture_").removesuffix(".png"))
    assert (int(found.targets[first]), int(found.predicted[first])) == (true, taken)


def test_names_that_mean_something_to_matplotlib_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ["$\\frac$", "a_b^c", "猫", "x" * 300, "two\nlines", "\udcff.png"]
    found = replace(made(60), task=make_task("classify", names))
    write_outcome(found, tmp_path)
    assert len([*tmp_path.glob("*.png")]) == 4
    shown = [tick.get_text() for tick in confusion(found).axes[0].get_yticklabels()]
    assert shown[:3] == names[:3]
    assert all(len(name) <= 20 and name.isprintable() for name in shown)

"""What is reckoned of several labels an image, against scikit-learn, timm and plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from visionlora import Images, UserError
from visionlora.tasks.cells import Cells
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.multilabel.baseline import LabelMeans
from visionlora.tasks.multilabel.outcome import MultilabelOutcome
from visionlora.tasks.multilabel.probe import one_against_all
from visionlora.tasks.multilabel.task import Multilabel, MultilabelOptions
from visionlora.tasks.multilabel.thresholds import best_thresholds

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of 200 images; no image has the last label."""
    random = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 4, generator=random) < torch.tensor([0.5, 0.2, 0.05, 0.0])).float()
    return torch.randn(200, 4, generator=random) + 1.5 * targets - 0.5, targets


def test_metrics_are_scikit_learns(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = case
    task = Multilabel(NAMES, MultilabelOptions(thresholds=[0.4]))
    evaluation = Evaluation(task, "test")
    for part in range(0, 200, 64):
        evaluation.update(logits[part : part + 64], targets[part : part + 64])
    found = {key: float(value) for key, value in evaluation.compute().items()}
    shares, truth = logits.sigmoid().numpy(), targets.numpy()
    given = shares >= 0.4
    precisions = [average_precision_score(truth[:, label], shares[:, label]) for label in range(3)]
    assert found["test/map"] == pytest.approx(np.mean(precisions), abs=1e-5)  # of the labels that there are
    assert found["test/f1_micro"] == pytest.approx(f1_score(truth, given, average="micro"), abs=1e-6)
    assert found["test/all_right"] == pytest.approx((given == truth).all(1).mean(), abs=1e-6)
    assert found["test/loss"] == pytest.approx(float(nn.functional.binary_cross_entropy_with_logits(logits, targets)), abs=1e-5)


def test_thresholds_count_from_the_moment_they_are_chosen(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = case
    task = Multilabel(NAMES)
    evaluation = Evaluation(task, "test")
    evaluation.update(logits, targets)
    before = evaluation.compute()["test/f1_micro"]
    task.options = MultilabelOptions(**task.settle(logits, targets))
    evaluation.update(logits, targets)
    assert evaluation.compute()["test/f1_micro"] > before


@pytest.mark.parametrize("each", [False, True])
def test_no_threshold_of_a_grid_is_better(each: bool, case: tuple[torch.Tensor, torch.Tensor]) -> None:
    shares, truth = case[0].sigmoid().numpy(), case[1].numpy() > 0.5
    found = best_thresholds(shares, truth, each)
    assert len(found) == (4 if each else 1)
    grid = np.linspace(0.1, 0.9, 81)
    if each:
        for label in range(2):  # the others are on too few images
            best = max(f1_score(truth[:, label], shares[:, label] >= value) for value in grid)
            assert f1_score(truth[:, label], shares[:, label] >= found[label]) >= best - 1e-3
        assert found[2] == found[3] or 0.1 <= found[2] <= 0.9
    else:
        best = max(f1_score(truth, shares >= value, average="micro") for value in grid)
        assert f1_score(truth, shares >= found[0], average="micro") >= best - 1e-3


def test_a_label_that_nearly_all_have_is_not_given_to_everything() -> None:
    shares = np.random.default_rng(0).uniform(0, 1, (60, 1))
    assert best_thresholds(shares, np.arange(60)[:, None] > 0, each=False) == [0.1]


def test_losses(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = case
    task = Multilabel(NAMES, MultilabelOptions(loss="asymmetric", gamma=4.0))
    reference = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=0)(logits, targets) / targets.numel()
    torch.testing.assert_close(task.training_criterion()(logits, targets), reference)
    focal = Multilabel(NAMES, MultilabelOptions(loss="focal", gamma=2.0)).training_criterion()(logits, targets)
    right = torch.where(targets > 0.5, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(focal, (-((1 - right) ** 2) * right.log()).mean())
    weighted = Multilabel(NAMES)
    weighted.look_at([tuple(np.flatnonzero(row).tolist()) for row in targets.numpy()])
    weighted.balance = "weights"
    counts = targets.sum(0)
    weights = torch.where(counts > 0, (200 - counts) / counts.clamp(min=1), 1.0).clamp(0.05, 20)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    torch.testing.assert_close(weighted.training_criterion()(logits, targets), expected)


def test_probe_and_baseline_learn_what_is_linear() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((300, 8)) * 3 + 5
    there = np.stack([features[:, 0] > 5, features[:, 1] + features[:, 2] > 10, np.zeros(300, bool), np.ones(300, bool)], 1)
    weight, bias = one_against_all(features, there)
    logits = features @ weight.T + bias
    assert ((logits > 0) == there).mean(0).min() > 0.95
    assert not weight[2:].any()
    learner = LabelMeans(4)
    learner.learn(torch.from_numpy(features), torch.from_numpy(there).float())
    totals = learner.totals()
    assert totals is not None
    learner.settle(totals)
    assert ((learner.predict(torch.from_numpy(features)).numpy() > 0) == there).mean() > 0.9


def test_the_interval_holds_the_figure_and_better_is_told_from_worse(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = case
    images = Images([()] * 200, [str(number) for number in range(200)])
    found = MultilabelOutcome(Multilabel(NAMES), "test", logits, targets, images)
    low, high = found.interval()
    assert low < found.metrics()["test/map"] < high
    worse = MultilabelOutcome(Multilabel(NAMES), "test", torch.randn(200, 4, generator=torch.Generator().manual_seed(1)), targets, images)
    assert found.p_against(worse) < 1e-3
    assert found.p_against(found) == 1.0


def test_targets_are_checked() -> None:
    targets = Multilabel(NAMES).targets()
    images = torch.zeros(2, 3, 8, 8)
    assert targets.of((images, torch.zeros(2, 4, dtype=torch.int64)), "train").dtype == torch.float32
    with pytest.raises(UserError, match=r"are \(2, 3\); they must be \(2, 4\)"):
        targets.of((images, torch.zeros(2, 3)), "train")
    with pytest.raises(UserError, match="1 targets of a train batch are not between 0 and 1"):
        targets.of((images, torch.tensor([[0, 0, 0, 2], [0, 0, 0, 1]])), "train")


@pytest.mark.parametrize(
    ("cells", "said"), [(["red", "", "red"], "has one label, 'red'"), (["1", "0", "1"], "says of one label whether it is there")]
)
def test_one_label_is_a_classifiers(cells: list[str], said: str) -> None:
    parts = {"train": [(cell,) for cell in cells]}
    with pytest.raises(UserError, match=said):
        Multilabel(Multilabel.of_cells(Cells("t.csv", ("labels",), parts, {"train": range(2, 5)}, "|"))[0]).check_names("t.csv")
